"""An objective as a plug-in: the network answers the clean latent, under an L1 loss."""

from collections.abc import Callable

from torch import Tensor

from latentia.config import config
from latentia.diffusion import ConditionalDenoise, Denoise, Process, Values, expand


@config
class CleanL1:
    """E|network(z_t) − z|: the network predicts z itself, whatever the process predicts."""

    @property
    def estimates(self) -> bool:
        return False

    def loss(
        self, network: Callable[..., Tensor], z: Tensor, eps: Tensor, t: Tensor, values: Values, process: Process,
        chance: float,
    ) -> Tensor:  # fmt: skip
        answer = self.denoise(network, process)(process.noise(z, eps, t), t, **values)
        return (answer - z).abs().flatten(1).mean(1)

    def denoise(self, network: Callable[..., Tensor], process: Process) -> ConditionalDenoise:
        def answer(z_t: Tensor, t: Tensor, **values: Tensor) -> Tensor:
            time = process.network_time(t).float().expand(len(z_t)).to(z_t.device)
            return network(expand(process.input_scale(t), z_t) * z_t, time, **values)

        return answer

    def sampling(self, denoise: Callable[..., Tensor]) -> Denoise:
        return denoise
