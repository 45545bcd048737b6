"""Weights of a plain classifier under the names of the released code."""

NAMES = {
    'patch_embed.projection.': 'patch_embed.proj.',
    'layers.': 'blocks.',
    '.ls1.weight': '.gamma_1',
    '.ls2.weight': '.gamma_2',
    '.ffn.gate.': '.mlp.c_fc1.',
    '.ffn.up.': '.mlp.c_fc2.',
    '.ffn.down.': '.mlp.c_proj.',
}


def renamed(backbone):
    """A backbone's state dict; the head of the released code is ``head.weight`` and ``head.bias``."""
    state = {}
    for key, value in backbone.state_dict().items():
        key = key.replace('ln1.', 'norm.', 1) if key.startswith('ln1.') else key.replace('.ln', '.norm')
        for ours, theirs in NAMES.items():
            key = key.replace(ours, theirs)
        state[key] = value
    return state
