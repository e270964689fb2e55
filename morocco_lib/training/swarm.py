"""Pre-training by machines that come and go (Diskin et al., 2021), over hivemind.

Trainers compute gradients on sequences of their own drawing; when all of them together have seen a batch, its gradients are
averaged and each makes the same update, an epoch in hivemind's words. An auxiliary peer computes none: it is there to be
found, helps in averaging, and keeps the newest checkpoint.
"""

import asyncio
import hmac
import logging
import secrets
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hivemind
import numpy as np
import pydantic.v1 as pydantic
import torch
from hivemind import compression
from hivemind.dht.crypto import RSASignatureValidator
from hivemind.dht.schema import BytesWithPublicKey, SchemaValidator
from hivemind.optim.grad_averager import GradientAverager
from hivemind.optim.state_averager import TrainingStateAverager
from hivemind.p2p import P2PDaemonError, PeerID
from hivemind.utils import TimedStorage
from hivemind.utils.auth import AuthorizerBase
from hivemind.utils.timed_storage import get_dht_time

from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.training.pretraining.loop import Pretraining, Progress
from morocco_lib.training.pretraining.pretrain import Job

SKEW_S = 60  # that clocks may differ by, and a signed request is good for
KEPT_S = 600  # that what a trainer said of itself is kept
LARGE = 2**16 + 1  # elements of a tensor that is sent in 8 bits; smaller ones in 16
PROBE, PROBE_BYTES = "morocco_bandwidth", 8 << 20
STATE = "swarm.pt"
AVERAGED_EVERY = 5  # updates, of the weights themselves: averaged gradients leave them nearly alike
WAIT_S = 60  # that a trainer stays after the last update for a checkpoint to be made of it
logging.getLogger("hivemind").setLevel(logging.CRITICAL)  # peers that leave are no news
warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)  # of a state that is taken over


@dataclass(frozen=True)
class Membership:
    """Where and how a machine takes part.

    Attributes:
        run: A name that all peers give.
        peers: Addresses of peers that are there already, as they print them; none for the first.
        listen, announce: Addresses to be reached at, as /ip4/0.0.0.0/tcp/31337; none: on the loopback address alone.
        client: Behind a firewall: nobody connects to it, others average for it.
        bandwidth: Mbit/s, by which shares of the averaging are dealt out; None: measured to the first peer.
        key: A secret that all peers share; None: anybody may take part.
        matchmaking_s: How long a group of peers that average waits for others.
    """

    run: str
    peers: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    client: bool = False
    bandwidth: float | None = None
    key: bytes | None = None
    matchmaking_s: float = 15.0

    @property
    def prefix(self) -> str:
        """What names of the run begin with: with a key, what nobody without it can name."""
        return (
            self.run if self.key is None else f"{self.run}-{hmac.digest(self.key, self.run.encode(), 'sha256').hex()}"
        )


class SharedKey(AuthorizerBase):
    """Lets requests pass that somebody with the key has signed within the last minute, each once."""

    def __init__(self, key: bytes):
        self._key, self._seen = key, TimedStorage()

    def _signature(self, message) -> bytes:
        message.auth.signature = b""
        return hmac.digest(self._key, message.SerializeToString(deterministic=True), "sha256")

    def _is_signed(self, message) -> bool:
        given = message.auth.signature
        return hmac.compare_digest(given, self._signature(message))

    async def sign_request(self, request, service_public_key) -> None:
        request.auth.time, request.auth.nonce = get_dht_time(), secrets.token_bytes(16)
        request.auth.signature = self._signature(request)

    async def validate_request(self, request) -> bool:
        now, nonce = get_dht_time(), request.auth.nonce
        if not self._is_signed(request) or abs(request.auth.time - now) > SKEW_S or nonce in self._seen:
            return False
        self._seen.store(nonce, None, now + 3 * SKEW_S)
        return True

    async def sign_response(self, response, request) -> None:
        response.auth.nonce = request.auth.nonce
        response.auth.signature = self._signature(response)

    async def validate_response(self, response, request) -> bool:
        return self._is_signed(response) and response.auth.nonce == request.auth.nonce


class TrainerStatus(pydantic.BaseModel):
    """What a trainer says of itself."""

    epoch: pydantic.conint(ge=0, strict=True)
    loss: pydantic.StrictFloat
    samples_per_s: pydantic.confloat(ge=0, strict=True)
    client: pydantic.StrictBool


class Metrics(pydantic.BaseModel):
    metrics: dict[BytesWithPublicKey, TrainerStatus]


class Peer:
    """A machine in the network of a run; a context manager."""

    def __init__(self, place: Membership):
        self.place, self._signature = place, RSASignatureValidator()
        try:
            self.dht = hivemind.DHT(
                start=True, initial_peers=list(place.peers), client_mode=place.client,
                announce_maddrs=list(place.announce) or None, use_ipfs=False, use_relay=False, use_auto_relay=False,
                auto_nat=False, nat_port_map=False, num_workers=1, startup_timeout=60,
                record_validators=[SchemaValidator(Metrics, prefix=place.prefix), self._signature],
                **({"host_maddrs": list(place.listen)} if place.listen else {}),  # else on the loopback address
                **({"authorizer": SharedKey(place.key)} if place.key else {}),
            )  # fmt: skip
        except Exception as error:  # of p2pd: its exceptions have no common kind
            raise EnvironmentFailure(
                f"no peer of {place.run} answers at {', '.join(place.peers or place.listen)}: {' '.join(str(error).split())[:200]}",
                rule="addresses are those that a peer printed, and all peers have the same key",
                remedy="see that it runs, and that its port is open",
            ) from None
        if not place.client:
            self.dht.run_coroutine(_answer_probes)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error) -> None:
        self.dht.shutdown()

    def addresses(self) -> list[str]:
        """Return where others reach it, as they give it to `Membership.peers`."""
        return [str(one) for one in self.dht.get_visible_maddrs()]

    def bandwidth(self) -> float | None:
        """Return Mbit/s: as given, or as measured by bytes to the first peer and back; None if it is not there any more."""
        if self.place.bandwidth is not None or not self.place.peers:
            return self.place.bandwidth
        identity = PeerID.from_base58(self.place.peers[0].rsplit("/", 1)[-1])
        try:
            return self.dht.run_coroutine(partial(_probe, identity=identity))
        except (P2PDaemonError, asyncio.IncompleteReadError):
            return None

    def say(self, epoch: int, loss: float, samples_per_s: float) -> None:
        """Tell all peers how this trainer does."""
        said = {"epoch": epoch, "loss": loss, "samples_per_s": float(samples_per_s), "client": self.place.client}
        self.dht.store(
            f"{self.place.prefix}_metrics", subkey=self._signature.local_public_key, value=said,
            expiration_time=get_dht_time() + KEPT_S, return_future=True,
        )  # fmt: skip

    def keep(self, epoch: int) -> None:
        """Tell all peers of which update there is a checkpoint."""
        self.dht.store(f"{self.place.prefix}_kept", value=epoch, expiration_time=get_dht_time() + KEPT_S)

    def kept(self) -> int:
        """Return of which update there is a checkpoint."""
        found = self.dht.get(f"{self.place.prefix}_kept", latest=True)
        return found.value if found else 0

    def status(self) -> list[dict[str, Any]]:
        """Return what every trainer last said of itself, with `trainer`, part of its key, and `age_s`."""
        found = self.dht.get(f"{self.place.prefix}_metrics", latest=True)
        if not found:
            return []
        rows = [
            {"trainer": bytes(key)[-24:-12].decode(errors="replace"), **one.value, "age_s": get_dht_time() - one.expiration_time + KEPT_S}
            for key, one in found.value.items()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: row["trainer"])

    def optimizer(self, loop: Pretraining, model: torch.nn.Module, sequences: int | None) -> hivemind.Optimizer:
        """Return the optimiser that all peers of the run share; that of an auxiliary peer takes no sequences at once.

        Raises:
            UsageError: the recipe has parts that averaging knows nothing of.
        """
        recipe, place = loop.recipe, self.place
        if recipe.sparsity or recipe.gradual or recipe.distill or recipe.precision == "fp16":
            raise UsageError(
                "a swarm with masks, a teacher or fp16",
                rule="peers average dense gradients",
                remedy="take them out of the recipe",
            )
        packed = compression.SizeAdaptiveCompression(
            LARGE, compression.Float16Compression(), compression.Uniform8BitQuantization()
        )
        timeout_s = (2 if sequences is None else 10) * place.matchmaking_s  # a peer without gradients need not wait
        network = {"bandwidth": self.bandwidth(), "request_timeout": min(3.0, place.matchmaking_s / 2)}
        return hivemind.Optimizer(
            dht=self.dht, run_id=place.prefix, target_batch_size=recipe.batch_size, batch_size_per_step=sequences,
            params=loop.groups(model), optimizer=partial(_make_optimizer, loop), scheduler=partial(_make_scheduler, loop),
            matchmaking_time=place.matchmaking_s, averaging_timeout=timeout_s,
            client_mode=place.client, auxiliary=sequences is None, offload_optimizer=True, delay_state_averaging=False,
            grad_compression=packed, state_averaging_compression=packed, average_state_every=AVERAGED_EVERY,
            averager_opts=network, grad_averager_factory=partial(GradientAverager, **network),
            tracker_opts={"max_refresh_period": 3.0},
        )  # fmt: skip


def _make_optimizer(loop: Pretraining, groups) -> torch.optim.Optimizer:
    """Return the recipe's optimiser, that clips what was averaged; at rate 0, since hivemind begins with a step of its own."""
    optimizer = loop.make_optimizer(groups)
    weights = [one for group in optimizer.param_groups for one in group["params"]]

    def clip(*_) -> None:
        torch.nn.utils.clip_grad_norm_(weights, loop.recipe.max_grad_norm)

    optimizer.register_step_pre_hook(clip)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def _make_scheduler(loop: Pretraining, optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    for group in optimizer.param_groups:
        group["lr"] = loop.recipe.learning_rate
    for state in optimizer.state.values():
        state["step"].zero_()
    return torch.optim.lr_scheduler.LambdaLR(optimizer, loop.factor)


# -- what peers do -------------------------------------------------------------------------------------------------
def train(job: Job, peer: Peer, sequences: int, say: Callable[[str], None]) -> int:
    """Train until all updates of the recipe are made, by this machine and others; returns how many sequences it added.

    Args:
        job: See `pretrain.prepare`; its seed decides the first weights, and is the same for all peers.
        sequences: Computed with at once: what takes a second to ten.
    Raises:
        InvalidResult: its loss is not finite; others go on.
    """
    loop, recipe = job.loop, job.loop.recipe
    optimizer = peer.optimizer(loop, loop.model, sequences)
    rng, added, epoch, losses = np.random.default_rng(secrets.randbits(64)), 0, 0, []
    try:
        if peer.place.peers:
            optimizer.state_averager.load_state_from_peers(timeout=WAIT_S)
        while epoch < recipe.steps:
            if (now := optimizer.local_epoch) > epoch and losses:
                rate = optimizer.tracker.performance_ema.samples_per_second
                peer.say(now, float(np.mean(losses)), rate)
                say(f"update {now} of {recipe.steps}: loss {np.mean(losses):.4f}, {rate:.1f} sequences/s here")
                losses = []
            epoch = now
            if epoch < recipe.steps <= optimizer.tracker.global_epoch and peer.kept() >= recipe.steps:
                break  # the others are through, and it need not make the last updates alone
            numbers = rng.integers(len(loop.train), size=sequences)
            loop.net.train()
            batch = loop.masker(loop.train.part(numbers), rng.integers(1 << 62, size=sequences), loop.seed).to(
                loop.device
            )
            told = len(batch.labels)
            loss = loop.loss(batch, now, told / sequences) / told
            if not torch.isfinite(loss):
                raise InvalidResult(
                    f"the loss is {loss.item()} at update {now + 1}", remedy="lower learning_rate, for all peers"
                )
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
            added += sequences
        end = time.monotonic() + WAIT_S
        while not peer.place.client and peer.kept() < recipe.steps and time.monotonic() < end:
            time.sleep(0.5)  # what is not asked for goes with the last trainer
        return added
    finally:
        _leave(optimizer)


def assist(
    job: Job,
    peer: Peer,
    say: Callable[[str], None],
    *,
    every: int = 1,
    kept: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Help the trainers of a run until it ends, and return what pretrain.json then holds.

    Args:
        job: As the trainers'; its folder gets the model and pretrain.json at each checkpoint.
        every: Updates between two checkpoints.
        kept: Called with the folder after each.
    """
    loop, steps, began, progress, result = job.loop, job.loop.recipe.steps, time.monotonic(), Progress(), {}
    optimizer, state = peer.optimizer(loop, loop.model, None), loop.folder / STATE
    keeper = optimizer.state_averager
    try:
        if state.is_file():
            progress = _read(keeper, loop, state)
            say(f"going on after update {keeper.local_epoch}")
        while progress.step < steps:
            time.sleep(0.3)
            optimizer.step()  # helps, where others average
            rows = peer.status()
            newest = max((row["epoch"] for row in rows), default=0)
            if newest < min(progress.step + every, steps):
                continue
            keeper.load_state_from_peers(timeout=WAIT_S)  # says nothing of how that went
            if keeper.local_epoch <= progress.step:
                continue
            keeper.allow_state_sharing, keeper.state_sharing_priority = True, keeper.local_epoch
            progress.step = min(keeper.local_epoch, steps)
            progress.tokens = round(progress.step * loop.recipe.batch_size * loop.train.lengths.mean())
            progress.hidden = round(progress.tokens * loop.recipe.masked)  # about: each trainer draws its own
            found = loop.evaluate()
            progress.evaluations.append(
                {"step": progress.step, "train_loss": float(np.mean([row["loss"] for row in rows])), "trainers": len(rows),
                 "samples_per_s": sum(row["samples_per_s"] for row in rows), "seconds": time.monotonic() - began,
                 "learning_rate": keeper.optimizer.param_groups[0]["lr"], **found}
            )  # fmt: skip
            _write(keeper, loop.model, progress, state)
            result = job.finish(progress, time.monotonic() - began, over=progress.step >= steps)
            kept(job.folder)
            peer.keep(progress.step)
            say(f"update {progress.step} of {steps}: {len(rows)} trainers, perplexity {found['perplexity']:.2f}; kept")
        return result
    finally:
        _leave(optimizer)


def _leave(optimizer: hivemind.Optimizer) -> None:
    """Say goodbye, without waiting for an averaging that was agreed on."""
    for agreed in (optimizer.scheduled_grads, optimizer.scheduled_state):
        if agreed is not None and not agreed.done():
            agreed.cancel()
    optimizer.scheduled_grads = optimizer.scheduled_state = None
    optimizer.shutdown()


def _write(keeper: TrainingStateAverager, model: torch.nn.Module, progress: Progress, path: Path) -> None:
    begun, state = path.with_suffix(".new"), {"optimizer": keeper.optimizer.state_dict(), "epoch": keeper.local_epoch}
    torch.save({"model": model.state_dict(), "progress": vars(progress), **state}, begun)
    begun.rename(path)


def _read(keeper: TrainingStateAverager, loop: Pretraining, path: Path) -> Progress:
    found = torch.load(path, map_location="cpu", weights_only=True)
    loop.model.load_state_dict(found["model"])
    weights = [one for group in loop.groups(loop.model) for one in group["params"]]
    with torch.no_grad():
        for group in keeper.optimizer.param_groups:  # of copies, which are what others are given
            for copy in group["params"]:
                copy.copy_(weights.pop(0))
    keeper.optimizer.load_state_dict(found["optimizer"])
    keeper.local_epoch = found["epoch"]
    keeper.allow_state_sharing, keeper.state_sharing_priority = True, keeper.local_epoch
    return Progress(**found["progress"])


# -- bandwidth -----------------------------------------------------------------------------------------------------
async def _answer_probes(dht, node) -> None:
    async def back(info, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(PROBE_BYTES))
        await writer.drain()
        writer.close()

    await node.protocol.p2p.add_binary_stream_handler(PROBE, back)


async def _probe(dht, node, identity: PeerID) -> float:
    """Return the Mbit/s of the slower direction, taken as half of what both take together."""
    began = time.perf_counter()
    _, reader, writer = await node.protocol.p2p.call_binary_stream_handler(identity, PROBE)
    writer.write(bytes(PROBE_BYTES))
    await writer.drain()
    await reader.readexactly(PROBE_BYTES)
    writer.close()
    return 2 * PROBE_BYTES * 8 / (time.perf_counter() - began) / 1e6
