"""One check of what a load would meet."""

from __future__ import annotations

from memcload.cancel import Cancel
from memcload.check import Plan, check_load
from memcload.options import Options, ParallelOptions
from memcload.output.checks import show_findings
from memcload.session import exit_code_of, guard, open_source, servers_of
from memcload.sink import NewClient


def check(options: Options, new_client: NewClient) -> int:
    """Show what a load with these options would meet; return the exit code."""

    def look(cancel: Cancel) -> int:
        router, connect = servers_of(options, new_client, cancel, retries=0)
        plan = Plan(
            source=open_source(options, cancel),
            router=router,
            tls=options.tls,
            rejects=options.rejects,
            report=options.report,
            metrics=options.metrics,
            log=options.log,
            engine=options.engine if isinstance(options, ParallelOptions) else None,
        )
        findings = check_load(plan, connect, options.connect_timeout + options.timeout, cancel)
        if cancel.signal is None:
            show_findings(findings, as_table=options.progress)
        return exit_code_of(options, cancel, not any(finding.problem for finding in findings))

    return guard(options, look)
