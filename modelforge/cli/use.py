"""`modelforge generate` and `modelforge chat`: a trained model used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, TrustRemoteCode, print_json, working

Model = Annotated[
    str,
    typer.Argument(help="A finished run, a model's folder, or a hub id.", show_default=False),
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="The longest answer.")]
Temperature = Annotated[
    float, typer.Option("--temperature", help="0 takes the likeliest token each time.")
]
TopP = Annotated[float, typer.Option("--top-p", help="The share of probability drawn from.")]
TopK = Annotated[int, typer.Option("--top-k", help="The number of tokens drawn from; 0: all.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.")]
HeldTo = Annotated[
    str | None,
    typer.Option(
        "--constraints", help="JSON file of constraints, or none; by default the run's own."
    ),
]
System = Annotated[
    str | None, typer.Option("--system", help="The system message; by default the run's.")
]


def generate(
    model: Model,
    prompts: Annotated[str, typer.Option("--prompts", help="A data file, or a .txt, one a line.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where the answers go, as JSON Lines.")
    ] = Path("answers.jsonl"),
    num: Annotated[int, typer.Option("--num", help="Answers to each prompt.", min=1)] = 1,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = 42,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Prompts answered at once.", min=1)
    ] = 8,
    system: System = None,
    base: Annotated[bool, typer.Option("--base", help="Leave the adapter off.")] = False,
    constraints: HeldTo = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Answer every prompt of a file. A job that was stopped goes on where it was."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.inference.answers import Sampling
        from modelforge.inference.generate import generate as generate_all

        found = generate_all(
            model,
            prompts,
            output,
            sampling=Sampling(max_new_tokens, temperature, top_p, top_k, seed),
            group=num,
            batch_size=batch_size,
            system=system,
            base=base,
            constraints=constraints,
            trust_remote_code=trust_remote_code,
        )
        say(f"{found.rows} answers in {found.file}; the model ended {found.stopped} by itself")
    if as_json:
        print_json(vars(found))


def chat(
    model: Model,
    system: System = None,
    tools: Annotated[
        Path | None, typer.Option("--tools", help="JSON list of tools that the model is offered.")
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option("--thinking/--no-thinking", help="For templates that can think or not."),
    ] = None,
    beside_base: Annotated[
        bool, typer.Option("--beside-base", help="Show the base's answers too.")
    ] = False,
    history: Annotated[
        Path | None, typer.Option("--history", help="Keep the conversation here, and go on.")
    ] = None,
    constraints: HeldTo = None,
    max_new_tokens: NewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = 42,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk with a trained model. /help shows what else there is."""
    with working(as_json=False, lasting=True):
        from modelforge.common.console import say
        from modelforge.constraints.of_a_run import of_recorded
        from modelforge.inference.answers import Sampling
        from modelforge.inference.chat import Chat, read_tools
        from modelforge.inference.trained import find_trained, load_trained

        sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
        found = find_trained(model, trust_remote_code=trust_remote_code)
        offered = None if tools is None else read_tools(tools)
        held_to = of_recorded(found.recorded, constraints, said=model)
        talk = Chat(
            load_trained(found),
            sampling,
            system=system or found.recorded.get("system_prompt"),
            tools=offered,
            template_kwargs=None if thinking is None else {"enable_thinking": thinking},
            beside_base=beside_base,
            history=history,
            constraints=held_to,
            write=_write,
        )
        say("/help shows the commands, /quit leaves")
        talk.talk(_lines())


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _lines() -> Iterator[str]:
    """What is typed, until its end; Ctrl-C leaves an answer, and at the prompt the chat."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
