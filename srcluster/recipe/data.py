"""The part of a recipe that says where its batches come from."""

from pydantic import Field

from srcluster.recipe.validation import Part


class Data(Part):
    """Where HR patches come from, and how many make a batch."""

    shards: str = "auto"
    """URL or folder of packed shards; `auto` means the embedded cluster's default photographs."""
    patch: int = Field(96, ge=8)
    """Side of an HR training patch in pixels."""
    batch: int = Field(16, ge=1)
    """Patches a step, over all ranks together."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches that a batch is trained in, one after another, to save memory. The result is as without, up to
    float sums, but for batch norm, whose statistics are then those of a micro-batch."""
    patches_per_sample: int = Field(1, ge=1)
    """Patches cut from a sample each time it is decoded, one for each of as many batches."""
    workers: int = Field(0, ge=0)
    """Loader processes of each rank; 0 decodes in a thread of the training process."""
    lanes: int = Field(8, ge=1)
    """Streams of shards that are read side by side; each gives equally many patches of a batch. Ranks and loader
    workers of one lane read the same shards: let there be as many lanes as there are of them."""
    shuffle_shards: int = Field(4, ge=1)
    """Shards whose samples are shuffled together, over all lanes, each of which shuffles at least one."""
    augment: bool = True
    """The eight flips and quarter turns, at random."""
