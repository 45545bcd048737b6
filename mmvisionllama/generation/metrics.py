"""FID, sFID, inception score, precision and recall of sampled images (Tables 1, 8 and 9).

The formulas are those of the evaluation suite that the paper used (ADM's, its [21]), in float64 on numpy alone. The
features come from an extractor: torch-fidelity's port of the same TensorFlow Inception, or one of your own.

Legend: N samples, D features, K classes of the extractor.
"""

import os
import tempfile
import zipfile
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast, broadcast_object_list
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, TASK_UTILS
from torch import Tensor

from ..checkpoints.reading import find_state_dict, read_checkpoint
from ..errors import CheckpointError, DataError, MissingExtraError, MissingFileError, OptionError
from .neighbours import full_precision, precision_recall
from .pictures import iterate_npz, npz_header

Features = Dict[str, np.ndarray]


def statistics(features: np.ndarray) -> Dict[str, np.ndarray]:
    """Mean ``(D,)`` and covariance ``(D, D)`` of features ``(N, D)``, float64.

    Raises:
        ValueError: For fewer than 2 samples.
    """
    if len(features) < 2:
        raise ValueError(f'statistics need at least 2 samples, got {len(features)}')
    features = np.asarray(features, dtype=np.float64)
    return dict(mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False).reshape(2 * features.shape[1:]))


def frechet_distance(one: Dict[str, np.ndarray], two: Dict[str, np.ndarray]) -> float:
    """Frechet distance of two Gaussians: ``|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (FID, sFID).

    The trace of the root is the sum of the roots of the eigenvalues of ``S1^(1/2) S2 S1^(1/2)``, which is symmetric:
    no complex numbers, and singular covariances (fewer samples than features) are no special case.
    """
    values, vectors = np.linalg.eigh(one['sigma'])
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ two['sigma'] @ root)
    offset = np.square(one['mu'] - two['mu']).sum()
    spread = np.trace(one['sigma']) + np.trace(two['sigma'])
    return float(offset + spread - 2 * np.sqrt(product.clip(min=0)).sum())


def inception_score(logits: np.ndarray, split_size: int = 5000) -> float:
    """Mean over consecutive splits of ``exp(E KL(p(y | x) || p(y)))``; ``logits`` are ``(N, K)``."""
    logits = np.asarray(logits, dtype=np.float64)
    scores = []
    for start in range(0, len(logits), split_size):
        part = logits[start : start + split_size]
        log_p = part - part.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        divergence = (p * (log_p - np.log(p.mean(axis=0, keepdims=True)))).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def compare(
    samples: Features, reference: Dict[str, Any], neighbour: int = 3, split_size: int = 5000, device: str = 'cpu'
) -> Dict[str, float]:
    """Every metric that the features allow.

    Args:
        samples: ``pool`` ``(N, D)`` and optionally ``spatial`` (for sFID) and ``logits`` (for the inception score).
        reference: From :func:`load_reference`.
        neighbour: k of precision and recall.
        split_size: Samples per split of the inception score.
        device: Where the distances of precision and recall are computed.
    """
    results = distribution_metrics(samples, reference, split_size)
    if 'pool' in reference['features']:
        results.update(precision_recall(samples['pool'], reference['features']['pool'], neighbour, device=device))
    return results


def check_dimensions(samples: Dict[str, Any], reference: Dict[str, Any]) -> None:
    """Raises a DataError for a reference whose statistics or features ``(N, D)`` have another D than the samples'."""
    for key in ('pool', 'spatial'):
        if key not in samples:
            continue
        dims = samples[key].shape[1]
        known = reference['statistics'].get(key)
        shapes = [] if known is None else [known['mu'].shape, known['sigma'].shape[:1], known['sigma'].shape[1:]]
        if key in reference['features']:
            shapes.append(reference['features'][key].shape[1:])
        for shape in shapes:
            if shape != (dims,):
                raise DataError(
                    f'the {key} features of the samples have {dims} dimensions and those of the reference '
                    f'{"x".join(map(str, shape)) or 0}: take a reference of the same extractor'
                )


def distribution_metrics(samples: Features, reference: Dict[str, Any], split_size: int = 5000) -> Dict[str, float]:
    """Those of :func:`compare` that need no distances: inception score, FID and sFID.

    Raises:
        DataError: For a reference of other dimensions.
    """
    check_dimensions(samples, reference)
    results = {}
    if 'logits' in samples:
        results['IS'] = inception_score(samples['logits'], split_size)
    for name, key in (('FID', 'pool'), ('sFID', 'spatial')):
        if key in samples and key in reference['statistics']:
            results[name] = frechet_distance(statistics(samples[key]), reference['statistics'][key])
    return results


@TASK_UTILS.register_module()
class InceptionFeatures:
    """Features of the TensorFlow Inception that FID is defined with, through torch-fidelity.

    ``pool`` are the 2048 pooled features, ``logits`` the 1008 outputs without bias, ``spatial`` the first 7 channels
    of the 1x1 branch of the seventh mixed block (17 x 17), flattened with the channels last as in TensorFlow, for sFID.

    Any object that is called like this one (uint8 images to a dict with ``pool`` and optionally ``spatial`` and
    ``logits``) takes its place. Unless it says ``is_inception = True``, statistics that a reference file stores, which
    are of this network's features, are not used with it.

    Args:
        weights: torch-fidelity's weights file, ``weights-inception-2015-12-05-6726825d.pth``.

    Raises:
        MissingExtraError: Without torch-fidelity.
        MissingFileError: If ``weights`` is no file. Nothing is downloaded.
        CheckpointError: If the file is damaged or holds more than weights.
    """

    is_inception = True

    def __init__(self, weights: str) -> None:
        if not weights or not os.path.isfile(weights):
            raise MissingFileError(
                f"{weights!r} is no file: give the path of torch-fidelity's Inception weights "
                f'(weights-inception-2015-12-05-6726825d.pth, from the releases of torch-fidelity)'
            )
        try:
            from torch_fidelity import FeatureExtractorInceptionV3
        except ImportError as error:
            raise MissingExtraError(
                "Inception features need torch-fidelity: pip install 'mmvisionllama[generation]'"
            ) from error
        names = ['2048', 'logits_unbiased']
        # torch-fidelity unpickles its file without checks: it gets one of ours, with the weights alone
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'weights.pth')
            torch.save(find_state_dict(read_checkpoint(weights)), path)
            try:
                self.network = FeatureExtractorInceptionV3('inception', names, feature_extractor_weights_path=path)
            except RuntimeError as error:
                raise CheckpointError(f"{weights!r} does not hold the weights of torch-fidelity's Inception") from error
        self.network.eval()  # torch-fidelity's own factory does it, its class only since 0.4
        self._spatial = None
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output: Tensor) -> None:
        # the order of TensorFlow's layout: stored statistics (mu_s, sigma_s) have it
        self._spatial = output[:, :7].permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Dict[str, Tensor]:
        """uint8 images ``(B, 3, height, width)`` to features, each ``(B, D)`` on the CPU; runs where the images are."""
        with full_precision():
            pool, logits = self.network.to(images.device)(images)
        return dict(pool=pool.cpu(), spatial=self._spatial.float().cpu(), logits=logits.cpu())


def _on_host(features: Dict[str, Any]) -> Features:
    return {key: torch.as_tensor(value).detach().cpu().numpy() for key, value in features.items()}


def _stack(parts: Sequence[Features]) -> Features:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def extract_npz(
    path: str, extractor, batch_size: int = 64, device: str = 'cpu', reference: Optional[Dict[str, Any]] = None
) -> Features:
    """Features of the images in a ``.npz`` file (``arr_0``, ``(N, height, width, 3)`` uint8), read in batches.

    With a ``reference``, the first batch is compared with its dimensions.

    Raises:
        DataError: If ``arr_0`` is of another kind or empty, or for a reference of other dimensions.
    """
    shape, dtype = npz_header(path)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise DataError(
            f'arr_0 of {path!r} holds {dtype} of shape {shape}: expected uint8 images (N, height, width, 3)'
        )
    parts: List[Features] = []
    for batch in iterate_npz(path, batch_size):
        parts.append(_on_host(extractor(torch.from_numpy(batch.copy()).permute(0, 3, 1, 2).to(device))))
        if reference is not None and len(parts) == 1:
            check_dimensions(parts[0], reference)
    return _stack(parts)


def load_reference(path: str, extractor=None, batch_size: int = 64, device: str = 'cpu') -> Dict[str, Dict[str, Any]]:
    """The reference that samples are compared with.

    Args:
        path: ``.npz`` file with images (``arr_0``), or statistics (``mu``, ``sigma``; ``mu_s``, ``sigma_s`` for sFID),
            or both, as ADM's reference batches; statistics are preferred where the extractor is the Inception that
            made them, images serve precision and recall.
        extractor: Makes the features of the images.
        batch_size: Images at once.
        device: Where the features are computed.

    Returns:
        dict: ``statistics`` by feature name and ``features`` by feature name.

    Raises:
        MissingFileError: If ``path`` is no file.
        DataError: If it is no ``.npz`` file, or holds neither images nor statistics.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f'the reference {path!r} is no file: give a .npz with images or statistics')
    if not zipfile.is_zipfile(path):
        raise DataError(f'the reference {path!r} is no .npz file: give one with images or statistics')
    with np.load(path) as archive:
        names = set(archive.files)
        found = {}
        if extractor is None or getattr(extractor, 'is_inception', False):
            for key, mu, sigma in (('pool', 'mu', 'sigma'), ('spatial', 'mu_s', 'sigma_s')):
                if mu in names and sigma in names:
                    found[key] = dict(mu=archive[mu].astype(np.float64), sigma=archive[sigma].astype(np.float64))
    features = extract_npz(path, extractor, batch_size, device) if 'arr_0' in names and extractor is not None else {}
    for key in ('pool', 'spatial'):
        if key in features and key not in found:
            found[key] = statistics(features[key])
    if not found:
        raise DataError(f'{path!r} has neither images (arr_0) nor statistics (mu, sigma) that fit: it has {names}')
    return dict(statistics=found, features={key: features[key] for key in ('pool',) if key in features})


@METRICS.register_module()
class GenerationMetric(BaseMetric):
    """FID and its companions for the Runner's validation and test loops; samples come from ``predict`` mode.

    Args:
        reference: See :func:`load_reference`.
        extractor: Config, ``dict(type='InceptionFeatures', weights=...)`` or of a registered one of your own.
        neighbour: k of precision and recall.
        split_size: Samples per split of the inception score.
        collect_device: As in mmengine.
        prefix: As in mmengine.
    """

    default_prefix = 'generation'

    def __init__(
        self,
        reference: str,
        extractor: dict,
        neighbour: int = 3,
        split_size: int = 5000,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.extractor = TASK_UTILS.build(extractor)
        self.reference = load_reference(reference, self.extractor, device=get_device())
        self.neighbour = neighbour
        self.split_size = split_size
        self._collected: Optional[np.ndarray] = None
        self._size = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Extracts the features of one batch of samples."""
        images = torch.stack([sample['image'] for sample in data_samples]).expand(-1, 3, -1, -1)
        features = _on_host(self.extractor(images))
        check_dimensions(features, self.reference)  # now, not after the last sample
        for row, sample in enumerate(data_samples):
            self.results.append((sample['index'], {key: value[row] for key, value in features.items()}))

    def evaluate(self, size: int) -> Dict[str, float]:
        """As in mmengine, but that the processes share the distances of precision and recall.

        Raises:
            OptionError: If fewer samples than ``size`` have numbers of their own.
        """
        self._size = size
        results = super().evaluate(size)
        if 'pool' in self.reference['features']:
            found = precision_recall(
                self._pool(),
                self.reference['features']['pool'],
                self.neighbour,
                device=get_device(),
                shared=True,
            )
            results.update({f'{self.prefix}/{key}' if self.prefix else key: value for key, value in found.items()})
        return results

    def _pool(self) -> np.ndarray:
        """The features that the first process has collected, in every process."""
        pool, self._collected = self._collected, None
        shape = [None if pool is None else pool.shape]
        broadcast_object_list(shape)
        pool = torch.empty(shape[0]) if pool is None else torch.from_numpy(pool).float()
        broadcast(pool)
        return pool.numpy()

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """Metrics of all samples, without precision and recall; a sample that a padded loader gave twice counts once.

        mmengine calls it in the first process alone.
        """
        unique = dict(results)
        if len(unique) < self._size:
            raise OptionError(
                f'{self._size} samples have {len(unique)} different numbers: batches of the data set need an index, '
                f'as those of ClassLabels, or each begins with the same noise'
            )
        features = _stack([{k: v[None] for k, v in unique[index].items()} for index in sorted(unique)])
        self._collected = features.get('pool')
        return distribution_metrics(features, self.reference, self.split_size)
