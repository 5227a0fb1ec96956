"""The part of a recipe that says where its batches come from."""

from pydantic import Field

from srcluster.recipe.validation import Part

__all__ = ["Data"]


class Data(Part):
    """Where HR patches come from, and how many make a batch."""

    shards: str = "auto"
    """URL or folder of packed shards; `auto` means the embedded cluster's default photographs."""
    patch: int = Field(96, ge=8)
    """Side of an HR training patch in pixels."""
    batch: int = Field(16, ge=1)
    """Patches a step, over all ranks together."""
    patches_per_sample: int = Field(1, ge=1)
    """Patches cut from a sample each time it is decoded."""
    workers: int = Field(0, ge=0)
    """Loader processes of each rank; 0 decodes in a thread of the training process."""
    shuffle_shards: int = Field(4, ge=1)
    """Shards whose samples are shuffled together; as many are held by each loader."""
    augment: bool = True
    """The eight flips and quarter turns, at random."""
