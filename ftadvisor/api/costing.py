"""What a run costs: by the user's own price, or by the dated table."""

from __future__ import annotations

from datetime import date

from ftadvisor.estimation.cost import run_cost
from ftadvisor.estimation.time import RunTime
from ftadvisor.schema.estimate import CostEstimate
from ftadvisor.schema.hardware import Gpu, Price
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.prices import cheapest_price


def cost_of(
    gpu: Gpu, given: float | None, time: RunTime, settings: Settings, said: list[str]
) -> CostEstimate | None:
    """The run's cost at the `given` price [USD per GPU-hour], or at the cheapest dated offer.

    None without either; `said` gets what the reader should know.
    """
    if given is not None:
        return _priced(time, settings, given)
    price = cheapest_price(gpu.id, date.today())
    if price is None:
        said.append(f"no cost: no provider's price of {gpu.id} is known (--price sets one)")
        return None
    if price.stale:
        said.append(f"the price of {price.provider} is of {price.as_of}: check it")
    return _priced(time, settings, price.usd_per_gpu_hour, price)


def _priced(
    time: RunTime, settings: Settings, usd_per_gpu_hour: float, price: Price | None = None
) -> CostEstimate:
    """At an hourly price; without a `price` of the list it is the user's own."""
    cost = run_cost(time, settings.num_gpus, usd_per_gpu_hour)
    spot = price.spot_usd_per_gpu_hour if price else None
    return CostEstimate(
        total_usd=cost.total_usd,
        total_low_usd=cost.total_low_usd,
        total_high_usd=cost.total_high_usd,
        usd_per_gpu_hour=usd_per_gpu_hour,
        provider=price.provider if price else "given",
        source=price.source if price else "given",
        spot_total_usd=run_cost(time, settings.num_gpus, spot).total_usd if spot else None,
        price_date=price.as_of if price else "",
    )
