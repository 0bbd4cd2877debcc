#!/usr/bin/env python
"""Makes questions and answers about a dataset's images with a language model.

The model is told what the dataset says of an image and of its case (the prompts name the facts), by
any OpenAI-compatible endpoint: a server of one's own (vLLM, llama.cpp, Ollama, ...) or a company's.

Examples:
  make_questions.py --data medpix2=/data/medpix2 --endpoint http://localhost:8000/v1 \\
      --model llama --output pairs.jsonl --limit 50 --dry-run
  make_questions.py --data medpix2=/data/medpix2 --endpoint http://localhost:8000/v1 \\
      --model llama --output pairs.jsonl
  make_questions.py --data medpix2=/data/medpix2 --endpoint https://api.example.org/v1 --yes \\
      --key-env EXAMPLE_KEY --model large --price-in 0.5 --price-out 1.5 --max-cost 5 \\
      --output pairs.jsonl

Answers are JSON, checked; one that can't be used is asked for again, and told of if that does not
help. Every answer is kept in a journal: the same command goes on where it was interrupted, and
costs nothing once all is answered. The table is written at the end, whole or not at all; a run
reads it with --config.data.conditioning.question_tables, without any network.

The API key is read from the environment. Exit code: 0 the table is written, 2 the input is wrong or
the endpoint does not answer, 1 --max-cost ended it before.
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from medjax import cli
from medjax.data.faults import POLICIES, FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.conditioning import placeholders, settings
from medjax.data.medical.llm import endpoint, plan, prompt, run, service, table
from medjax.data.medical.llm.asker import Outcome, Replay
from medjax.data.medical.llm.journal import Journal
from medjax.data.medical.llm.limits import Prices
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.plan import Plan
from medjax.data.medical.llm.prompt import Prompt
from medjax.data.medical.record import SPLITS, Record
from medjax.errors import UserError

KEY_ENV = "OPENAI_API_KEY"
SHOWN = 3  # failed requests that are told of in full
# What the request is made of; everything else in its body is the user's.
_OWN_PARAMETERS = ("model", "messages", "response_format", "stream", "n")
_LENGTHS = ("max_tokens", "max_completion_tokens")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `--key sk-...` must not be taken for --key-env
    )
    path = pathlib.Path
    add = parser.add_argument
    add("--data", required=True, metavar="NAME=FOLDER", help=f"one of {', '.join(catalogue.NAMES)}")
    add("--output", required=True, type=path, help="the table, a .jsonl file")
    add("--model", required=True, help="as the endpoint calls it")
    add("--endpoint", help="base address, such as http://localhost:8000/v1")
    add("--key-env", metavar="NAME", help=f"environment variable of the key (default: {KEY_ENV})")
    add("--yes", action="store_true", help="the data may go to a host outside of this network")
    add(
        "--prompt",
        action="append",
        help=f"{' or '.join(prompt.NAMES)}, or a file of the same form; may be repeated "
        "(default: both)",
    )
    add("--pairs", type=cli.positive, default=6, help="per request at most (default: 6)")
    add("--language", default="en", help="of the pairs, ISO 639-1 (default: en)")
    add("--images", action="store_true", help="send the images, too, burned-in text hidden")
    add(
        "--overlays",
        choices=settings.CHOICES["overlays"],
        default="mask",
        help="with --images: what is done to burned-in text (default: mask)",
    )
    add("--split", action="append", choices=SPLITS, help="only this part; may be repeated")
    add("--limit", type=cli.positive, help="only the first images")
    add("--attempts", type=cli.positive, default=3, help="until an answer is right (default: 3)")
    add(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the request's body, in JSON; null leaves one out (default: temperature=0, "
        "max_tokens=1500)",
    )
    add("--parallel", type=cli.positive, default=4, help="requests at once (default: 4)")
    add("--requests-per-minute", type=cli.positive, default=0, help="at most")
    add("--tokens-per-minute", type=cli.positive, default=0, help="at most, in and out")
    add("--timeout", type=float, default=120, help="seconds to wait for an answer (default: 120)")
    add("--retries", type=int, default=5, help="after 429, 5xx and timeouts (default: 5)")
    add("--price-in", type=float, default=0, help="of a million tokens in")
    add("--price-out", type=float, default=0, help="of a million tokens out")
    add("--max-cost", type=float, default=math.inf, help="end before this run costs more")
    add("--journal", type=path, help="of answers (default: beside the table)")
    add("--on-bad-example", choices=POLICIES, default="error", help="records that can't be read")
    add("--dry-run", action="store_true", help="ask nothing: show a request, estimate the cost")
    add("--json", action="store_true", help="print one JSON object on stdout")
    return parser.parse_args()


def main() -> int:
    """See the module."""
    args = _arguments()
    _check(args)
    prompts = [prompt.read(name) for name in args.prompt or prompt.NAMES]
    asking = Asking(
        args.model, args.pairs, args.attempts, args.language, args.images, _parameters(args)
    )
    counter = FaultCounter(args.on_bad_example)
    records = _records(args, counter)
    bar = tqdm(records, desc="Requests", unit="image", delay=1, leave=False)
    planned = plan.make(bar, prompts, asking, counter)
    if not planned.requests:
        raise UserError(
            f"There is nothing to ask about {len(records)} images "
            f"({', '.join(f'{count} x {why}' for why, count in planned.lacking.items())})."
        )
    path = args.journal or args.output.with_name(f"{args.output.name}.journal")
    with Journal(path, writes=not args.dry_run) as journal:
        told = _make(args, prompts, asking, planned, journal)
    told |= {"left_out": dict(counter.counts), "not_asked": dict(planned.lacking)}
    if args.json:
        print(json.dumps(told, ensure_ascii=False))
    return 0 if args.dry_run or told["complete"] else 1


def _make(
    args: argparse.Namespace,
    prompts: Sequence[Prompt],
    asking: Asking,
    planned: Plan,
    journal: Journal,
) -> dict[str, Any]:
    prices = Prices(args.price_in, args.price_out)
    replay = Replay(asking, journal)
    outcomes, left = run.known(planned.requests, asking, replay)
    forecast = service.forecast(left, asking, prices, replay.cached)
    told = {
        "dataset": args.data.partition("=")[0],
        "model": asking.model,
        "prompts": [item.label for item in prompts],
        "images": planned.records,
        "requests": len(planned.requests),
        "forecast": dataclasses.asdict(forecast),
    }
    useless = sum(outcome.fault is not None for outcome in outcomes.values())
    cli.say(
        f"{planned.records} images need {len(planned.requests)} requests, {len(outcomes)} of them "
        f"answered before"
        + (f" ({useless} of no use, which more --attempts would ask again)" if useless else "")
        + f". The other {forecast.requests} take about {forecast.tokens_in} tokens in "
        f"and {forecast.tokens_out} out: {forecast.cost:.4f}, at most {forecast.cost_at_most:.4f}."
    )
    if args.dry_run:
        _show(planned, asking)
        if args.endpoint:
            cli.say(_leaves(args, prompts, forecast.requests))
        return told
    work = None
    if left:
        used = _service(args, prompts, forecast.requests)
        with tqdm(total=len(left), desc="Asking", unit="request") as bar:
            try:
                work = service.ask(left, asking, used, journal, replay, lambda _: bar.update())
            except KeyboardInterrupt:
                cli.say(f"What was answered is in {journal.path}: the same command goes on there.")
                raise
        outcomes |= work.outcomes
    told |= _account(work, replay, outcomes, prices)
    told["complete"] = len(outcomes) == len(planned.requests)
    _finish(args, planned, outcomes, asking, told)
    return told


def _account(
    work: service.Work | None, replay: Replay, outcomes: dict[str, Outcome], prices: Prices
) -> dict[str, Any]:
    """What was asked, what it took, and what came of it."""
    faults = [outcome.fault.reason for outcome in outcomes.values() if outcome.fault]
    used = dataclasses.asdict(work.asked) if work else {}
    tokens = used.get("tokens_in", 0), used.get("tokens_out", 0)
    return {
        "cached": replay.cached.answers,
        "asked": used.get("answers", 0),
        "http_requests": work.sent if work else 0,
        "json_schema": work.took_schema if work else None,
        "tokens_in": tokens[0],
        "tokens_out": tokens[1],
        "tokens_estimated_for": used.get("uncounted", 0),
        "cost": prices.cost(*tokens),
        "cost_of_cached": prices.cost(replay.cached.tokens_in, replay.cached.tokens_out),
        "failed": dict(collections.Counter(faults)),
        "empty": sum(not (outcome.pairs or outcome.fault) for outcome in outcomes.values()),
    }


def _finish(
    args: argparse.Namespace,
    planned: Plan,
    outcomes: dict[str, Outcome],
    asking: Asking,
    told: dict[str, Any],
) -> None:
    """Writes the table if all is answered, and says what there is to say."""
    failed = [(key, outcome.fault) for key, outcome in outcomes.items() if outcome.fault]
    for key, fault in failed[:SHOWN]:
        record = planned.requests[key].record
        cli.say(f"Failed after {asking.attempts} attempts: {record.where or record.id}: {fault}")
    cli.say(
        f"Asked {told['asked']} times ({told['http_requests']} HTTP requests), {told['cached']} "
        f"answers were in the journal; {told['tokens_in']} tokens in, {told['tokens_out']} out: "
        f"{told['cost']:.4f}. {len(failed)} requests failed, {told['empty']} gave no pair."
    )
    if told["tokens_estimated_for"]:
        cli.say(f"{told['tokens_estimated_for']} answers came without a count: it is estimated.")
    if told["json_schema"] is False:
        cli.say("The endpoint does not take a JSON schema: it was told in words alone.")
    if not told["complete"]:
        missing = len(planned.requests) - len(outcomes)
        cli.say(
            f"--max-cost is reached with {missing} requests left; no table is written. What was "
            "answered is in the journal: the same command goes on there."
        )
        return
    rows = table.rows(planned, outcomes, asking)
    if not rows:
        raise UserError(
            f"{asking.model} gave no pair that can be used: see what it answers in the journal, "
            "and change model or prompt."
        )
    table.write(args.output, rows)
    told |= {"output": str(args.output), "pairs": len(rows)}
    cli.say(f"{args.output}: {len(rows)} pairs. Use them with data.conditioning.question_tables.")


def _service(args: argparse.Namespace, prompts: Sequence[Prompt], requests: int) -> service.Service:
    """The endpoint, once it is clear that the data may go there."""
    if not args.endpoint:
        raise UserError("There are requests to ask: say where with --endpoint.")
    private = endpoint.is_private(endpoint.host_of(args.endpoint))
    cli.say(_leaves(args, prompts, requests))
    if not (private or args.yes):
        raise UserError(
            f"{endpoint.host_of(args.endpoint)} is not in this network: if the data may go there, "
            "add --yes."
        )
    name = args.key_env or KEY_ENV
    key = os.environ.get(name, "").strip()
    if not key and (args.key_env or not private):
        raise UserError(f"The environment variable {name} holds no key: set it, or use --key-env.")
    return service.Service(
        args.endpoint,
        key,
        args.parallel,
        args.requests_per_minute,
        args.tokens_per_minute,
        args.timeout,
        args.retries,
        Prices(args.price_in, args.price_out),
        args.max_cost,
    )


def _leaves(args: argparse.Namespace, prompts: Sequence[Prompt], requests: int) -> str:
    facts = sorted({fact for item in prompts for fact in item.facts})
    images = f"images, burned-in text: {args.overlays}" if args.images else "no images"
    return (
        f"{endpoint.host_of(args.endpoint)} is sent, in {requests} requests: {', '.join(facts)}; "
        f"{images}; nothing else."
    )


def _show(planned: Plan, asking: Asking) -> None:
    request = next(iter(planned.requests.values()))
    settings_ = {"pairs": str(asking.pairs), "language": asking.language}
    system, user = request.prompt.texts(request.record, settings_)
    cli.say(f"The first request ({request.prompt.label}):\n\n{system}\n\n{user}\n")


def _records(args: argparse.Namespace, counter: FaultCounter) -> list[Record]:
    name, equals, folder = args.data.partition("=")
    if not equals or name not in catalogue.NAMES:
        raise UserError(
            f"--data is {args.data!r}: write NAME=FOLDER; names are {', '.join(catalogue.NAMES)}."
        )
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"--data: there is no folder {folder}.")
    records = list(catalogue.dataset(name).read(path, counter))
    # A caption that says nothing costs as much as one that does.
    records, _ = placeholders.step(records, settings.Settings())
    if args.images and args.overlays != "keep":
        from medjax.data.medical.conditioning import overlays

        records, report = overlays.step(records, settings.Settings(overlays=args.overlays))
        for warning in report.warnings:
            cli.say(warning)
    if args.split:
        records = [record for record in records if record.split in args.split]
    return records[: args.limit]


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    parameters: dict[str, Any] = {"temperature": 0, "max_tokens": 1500}
    for text in args.parameter:
        name, equals, value = text.partition("=")
        if not equals or name in _OWN_PARAMETERS:
            raise UserError(
                f"--parameter is {text!r}: write NAME=VALUE, and none of "
                f"{', '.join(_OWN_PARAMETERS)}."
            )
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
        if name in _LENGTHS and not isinstance(parameters[name], int | None):
            raise UserError(f"--parameter is {text!r}: write a number of tokens.")
    return {name: value for name, value in parameters.items() if value is not None}


def _check(args: argparse.Namespace) -> None:
    if args.output.suffix != ".jsonl":
        raise UserError(f"--output is {args.output}: a table of questions is a .jsonl file.")
    if args.key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", args.key_env):
        # Not shown: it may be a key.
        raise UserError("--key-env is no name of an environment variable: write it like MY_KEY.")
    if args.endpoint:
        endpoint.host_of(args.endpoint)
    if args.max_cost != math.inf and not (args.price_in or args.price_out):
        raise UserError("--max-cost needs to know prices: give --price-in and --price-out.")
    if args.timeout <= 0 or args.retries < 0 or min(args.price_in, args.price_out) < 0:
        raise UserError("--timeout must be above 0, --retries and prices not below it.")


if __name__ == "__main__":
    cli.run(main)
