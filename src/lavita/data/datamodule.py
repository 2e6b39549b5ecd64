"""The clips that training sees, and a fixed held-out batch, as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Sequence

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lavita.data.ahead import part_of_cores
from lavita.data.catalogue import Catalogue, VideoEntry
from lavita.data.clips import (
    ClipShare,
    centre_crop_resize,
    clip_indices,
    clip_starts,
    image_draws,
    load_window,
    span,
    to_pixels,
    to_tensor,
    training_draw,
    window_starts,
)
from lavita.data.latent_cache import LatentCache
from lavita.data.video import read_frames

DEFAULT_CACHE_BYTES = 512 * 2**20
PREFETCHED = 4  # batches that each loader process has ready
MOST_WORKERS = 16


def loader_workers(devices: int) -> int:
    """Loader processes of one training process among `devices` on this machine: its part of the cores that may be used,
    at least 1; more than MOST_WORKERS would only fill the memory."""
    return part_of_cores(devices, MOST_WORKERS)


class ResizedFrames:
    """Whole videos, cropped and resized, kept in memory until max_bytes are used; later videos are read
    each time.

    Nothing is thrown out: an epoch visits each video once, and there the oldest would always go just before
    it is wanted again. Each loader process has its own store and its own limit.
    """

    item_key, images_key = "video", "images"

    def __init__(self, resolution: int, max_bytes: int) -> None:
        self.resolution, self.max_bytes = resolution, max_bytes
        self.num_bytes = 0
        self._videos: dict[str, np.ndarray] = {}

    def clip(self, video: VideoEntry, indices: Sequence[int], mirrored: bool) -> Tensor:
        """Frames of one video: uint8 (F, 3, resolution, resolution), 0..255. Raises UnreadableVideo."""
        frames = self.frames(video, indices)
        return to_pixels(frames[:, :, ::-1] if mirrored else frames)

    def frames(self, video: VideoEntry, indices: Sequence[int]) -> np.ndarray:
        """Frames of one video: uint8 (F, resolution, resolution, 3), 0..255. Raises UnreadableVideo."""
        kept = self._videos.get(video.video_id)
        if kept is None:
            need = video.frames * self.resolution**2 * 3
            if self.num_bytes + need > self.max_bytes:
                return centre_crop_resize(read_frames(video.path, indices, video.entries), self.resolution)
            kept = centre_crop_resize(read_frames(video.path, range(video.frames)), self.resolution)
            self._videos[video.video_id] = kept
            self.num_bytes += kept.nbytes
        return kept[indices]


class TrainClips(Dataset):
    """Training clips of the train split by global clip index, which counts on over epochs and has no end.

    An item is {'video': uint8 (F, 3, H, W), 0..255, 'label': int64 class index or -1, 'clip_index': int}; with
    context_frames = P > 0 also 'context_frames' (P, 3, H, W), those before the clip at its interval; with images = n
    also 'images' (n, 3, H, W) and 'image_labels' int64 (n,), single frames drawn from the whole split. With a latent
    cache 'moments' float32 (F, 2 C, h, w) and 'image_moments' take the place of 'video' and 'images'.
    frame_choice: exact or linspace (see `lavita.data.clips.clip_indices`).
    Raises ValueError for a video too short for context frames and clip: see Catalogue.long_enough.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        frames: int,
        interval: int,
        resolution: int,
        flip: bool,
        seed: int,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        images: int = 0,
        context_frames: int = 0,
        frame_choice: str = "exact",
        latents: LatentCache | None = None,
    ) -> None:
        self.videos = catalogue.long_enough(frames + context_frames, interval, frame_choice=frame_choice).split("train")
        if not self.videos:
            raise ValueError(f"{catalogue.dataset} at {catalogue.root}: got no training video, wanted at least 1")
        if latents is not None and context_frames:
            raise ValueError("latent cache: it holds latents, and the frames before a clip are wanted as pixels")
        self.frames, self.interval, self.flip, self.seed = frames, interval, flip, seed
        self.images, self.context_frames, self.frame_choice = images, context_frames, frame_choice
        # Arrays, not lists: each loader process would copy the objects of a list just by looking at them.
        self.num_frames = np.fromiter((video.frames for video in self.videos), np.int64, len(self.videos))
        starts = (clip_starts(video.frames, frames + context_frames, interval, frame_choice) for video in self.videos)
        self.num_starts = np.fromiter(starts, np.int64, len(self.videos))
        self.frame_ends = np.cumsum(self.num_frames)
        self.store = latents or ResizedFrames(resolution, cache_bytes)

    def __getitem__(self, clip_index: int) -> dict[str, Tensor | int]:
        position, start, mirrored = training_draw(self.seed, clip_index, self.num_starts, self.flip)
        video = self.videos[position]
        total = self.context_frames + self.frames
        indices = clip_indices(start, video.frames, total, self.interval, self.frame_choice)
        frames = self.store.clip(video, indices, mirrored)  # (context_frames + F, 3, H, W)
        item = {self.store.item_key: frames[self.context_frames :], "label": _label(video), "clip_index": clip_index}
        if self.context_frames:
            item["context_frames"] = frames[: self.context_frames]
        if self.images:
            item |= self._images(clip_index)
        return item

    def _images(self, clip_index: int) -> dict[str, Tensor]:
        """The single frames that come with a clip in joint training, with the classes of their videos."""
        draws = image_draws(self.seed, clip_index, self.images, self.frame_ends, self.flip)
        pictures = [self.store.clip(self.videos[position], [frame], mirrored) for position, frame, mirrored in draws]
        labels = [_label(self.videos[position]) for position, _, _ in draws]
        return {self.store.images_key: torch.cat(pictures), "image_labels": torch.tensor(labels)}


class RepeatedBatches(Dataset):
    """Clips start, start + 1, ... of `clips`, for updates of which some get the same batch of them, under numbers of
    their own: item k >= start has the clip_index k.

    turns: of the updates of one cycle, which batch of the cycle each gets, from 0 on: (0, 0) gives every batch twice.
    """

    def __init__(self, clips: TrainClips, start: int, batch: int, turns: Sequence[int]) -> None:
        self.clips, self.start, self.batch, self.turns = clips, start, batch, turns

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        update, place = divmod(index - self.start, self.batch)
        cycle, turn = divmod(update, len(self.turns))
        number = cycle * (max(self.turns) + 1) + self.turns[turn]
        return self.clips[self.start + number * self.batch + place] | {"clip_index": index}


class ClipDataModule(lightning.LightningDataModule):
    """Loads training clips start .. stop - 1, in this order, in full batches of `batch`, as TrainClips has them.

    Of world processes that train together each loads its part of every batch: see ClipShare. repeats: (clips of
    an update, the batch that each update of a cycle gets), see RepeatedBatches; by default every batch has clips of its
    own.
    Raises ValueError where stop - start is no multiple of batch, or batch none of world, and for videos shorter than a
    clip.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        frames: int,
        interval: int,
        resolution: int,
        flip: bool,
        seed: int,
        batch: int,
        start: int,
        stop: int,
        num_workers: int = 0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        images: int = 0,
        context_frames: int = 0,
        frame_choice: str = "exact",
        latents: LatentCache | None = None,
        rank: int = 0,
        world: int = 1,
        repeats: tuple[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if batch < 1 or start < 0 or stop < start or (stop - start) % batch:
            raise ValueError(
                f"got clips {start} to {stop} in batches of {batch}, allowed: a whole number of batches "
                f"({stop - start} clips leave {(stop - start) % max(batch, 1)}); change the budget or batch"
            )
        self.catalogue = catalogue
        self.frames, self.interval, self.resolution, self.seed = frames, interval, resolution, seed
        self.batch, self.start, self.stop, self.num_workers = batch, start, stop, num_workers
        self.rank, self.world, self.repeats = rank, world, repeats
        self.clips = TrainClips(
            catalogue,
            frames,
            interval,
            resolution,
            flip,
            seed,
            cache_bytes,
            images,
            context_frames,
            frame_choice,
            latents,
        )

    def train_dataloader(self) -> DataLoader:
        """Batches of TrainClips' items, stacked: {'video': uint8 (batch / world, F, 3, H, W), ...}; in pinned memory
        where there is a GPU. `clips.normalised` makes numbers of pixels."""
        ahead = {"persistent_workers": True, "prefetch_factor": PREFETCHED} if self.num_workers else {}
        return DataLoader(
            self.clips if self.repeats is None else RepeatedBatches(self.clips, self.start, *self.repeats),
            batch_size=self.batch // self.world,
            sampler=ClipShare(self.start, self.stop, self.batch, self.rank, self.world),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            **ahead,
            # Its own generator: a loader otherwise draws from torch's global one, which training may use.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def heldout_batch(self, most: int) -> dict[str, Tensor]:
        """At most `most` fixed clips of the held-out split, as a training batch would hold them but that videos, images
        and context frames are float32 in [-1, 1]; no seed has a part.

        Raises ValueError where the split has no window long enough.
        """
        before = self.clips.context_frames
        total = before + self.frames
        videos = self.catalogue.split("heldout")
        every = [(video, start) for video in videos for start in window_starts(video.frames, total, self.interval)]
        n = min(most, len(every))
        if not n:
            raise ValueError(
                f"{self.catalogue.dataset}: the held-out split has no video of {span(total, self.interval)} frames"
            )
        # Evenly spaced over the sorted windows, so that a few clips still cover videos and classes.
        chosen = [every[i * len(every) // n] for i in range(n)]
        clips = torch.stack([to_tensor(self._load(video, start, total)) for video, start in chosen])
        batch = {"video": clips[:, before:], "clip_index": torch.arange(n)}
        batch["label"] = torch.tensor([_label(video) for video, _ in chosen])
        if before:
            batch["context_frames"] = clips[:, :before]
        if self.clips.images:
            # The last frames of the other held-out clips are the images: fixed, and not those of the clip itself.
            others = [(torch.arange(self.clips.images) + i + 1) % n for i in range(n)]
            batch["images"] = torch.stack([clips[other, -1] for other in others])
            batch["image_labels"] = torch.stack([batch["label"][other] for other in others])
        return batch

    def _load(self, video: VideoEntry, start: int, frames: int) -> np.ndarray:
        return load_window(video, start, frames, self.interval, self.resolution)


def _label(video: VideoEntry) -> int:
    return -1 if video.class_index is None else video.class_index
