"""Owns LangGraph as an engine: a graph of one node with PostgresSaver, connected as its documentation has it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.runnables import RunnableConfig

    from benchmarks.engines import Operation


class State(TypedDict):
    """What a thread is at."""

    state: str


def step(_state: State) -> State:
    """Execute the step, which is as instant as a transition."""
    return {"state": "PICKED"}


class _LangGraph:
    def prepare(self, url: str) -> None:
        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()

    def register(self, url: str, prefix: str, count: int) -> None:
        """Nothing is needed: a thread begins with its first checkpoint."""

    @contextmanager
    def connected(self, url: str, name: str) -> Iterator[Callable[[str], Operation]]:
        with PostgresSaver.from_conn_string(url) as saver:
            builder = StateGraph(State)
            builder.add_node("step", step)
            builder.add_edge(START, "step")
            builder.add_edge("step", END)
            graph = builder.compile(checkpointer=saver)

            def operation(prefix: str) -> Operation:
                def operate(number: int) -> None:
                    config: RunnableConfig = {"configurable": {"thread_id": f"{prefix}-{number}"}}
                    graph.invoke({"state": "CREATED"}, config)

                return operate

            yield operation


def parts(_name: str) -> _LangGraph:
    """There is one."""
    return _LangGraph()
