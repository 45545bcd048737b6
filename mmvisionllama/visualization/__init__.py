"""Pictures of trainings and predictions; matplotlib is imported where a picture is drawn."""
