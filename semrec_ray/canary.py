"""A new release for a few users before it is for all: the commands `semrec canary start|show|promote|abort`."""

from typing import Annotated

import typer

from semrec_ray import rollout
from semrec_ray.config import resolve_store
from semrec_ray.store import Store
from semrec_ray.terminal import ChannelOption, StoreOption, print_json

commands = typer.Typer(
    no_args_is_help=True,
    help="Let a share of the users be answered by another channel's release. An app that serves the channel follows "
    "within 2 s, without a restart; `semrec status` shows what it does.",
)

VariantOption = Annotated[str, typer.Option(help="the channel whose release the share is answered from")]


@commands.command()
def start(
    share: Annotated[float, typer.Option(help="of the users, 0.05 is 5 %; 0: only who sends x-semrec-variant")],
    variant: VariantOption = "canary",
    channel: ChannelOption = "live",
    store: StoreOption = None,
) -> None:
    """Start a variant, or change the share of one that runs; who is on its side stays there while it grows.

    The first start takes the place of `variants` in the app's config. Make its release first:
    `semrec publish --channel canary`.
    """
    print_json(rollout.start(Store(resolve_store(store)), channel, variant, share))


@commands.command()
def show(channel: ChannelOption = "live", store: StoreOption = None) -> None:
    """Show the shares that these commands gave last, and the releases; none: the app's config says them."""
    print_json(rollout.show(Store(resolve_store(store)), channel))


@commands.command()
def promote(variant: VariantOption = "canary", channel: ChannelOption = "live", store: StoreOption = None) -> None:
    """Point the channel at the variant's release, then end all variants: everybody is answered from it.

    No live write is lost; `semrec rollback` takes it back.
    """
    print_json(rollout.promote(Store(resolve_store(store)), channel, variant))


@commands.command()
def abort(channel: ChannelOption = "live", store: StoreOption = None) -> None:
    """End all variants, those of the app's config too: everybody is answered by the channel again."""
    print_json(rollout.abort(Store(resolve_store(store)), channel))
