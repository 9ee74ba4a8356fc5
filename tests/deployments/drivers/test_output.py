"""What functions print, in their deployment's log, with every driver."""

import pytest

from tests.deployments.drivers.subjects import Subject

pytestmark = pytest.mark.functions

TALKING = """
console.log('loading');
export const handler = async (e) => {
  console.log('got', {a: 1});
  console.error('two\\nlines');
  console.warn('careful');
  process.stdout.write('raw\\n');
  return 1;
};
"""


async def test_console_lines_carry_the_request_and_stay_whole(subject: Subject) -> None:
    spec = await subject.deploy(TALKING)
    await subject.invoke(spec, request_id="r1")
    await subject.invoke(spec, request_id="r2")
    await subject.driver.close()
    seen = [(row.request_id, row.message) for row in subject.lines.rows]
    of_a_run = ["got { a: 1 }", "ERROR two\nlines", "WARN careful", "raw"]
    if "raw-lines" in subject.differs:  # they are taken for more of the line before
        of_a_run[2:] = ["WARN careful\nraw"]
    assert [each for each in seen if each[1] != "loading"] == [
        *(("r1", message) for message in of_a_run),
        *(("r2", message) for message in of_a_run),
    ]
    assert [message for _, message in seen].count("loading") == 1
    assert {(row.deployment_id, row.function_name) for row in subject.lines.rows} == {(1, "api")}


async def test_lines_before_a_crash_are_kept(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = async () => { console.log('last words'); process.exit(1); }"
    )
    await subject.invoke(spec, request_id="r3")
    await subject.driver.close()
    assert [row.request_id for row in subject.lines.rows if row.message == "last words"] == ["r3"]


async def test_lines_of_a_stream_are_kept(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " console.log('before'); stream.write('x'); console.log('between'); stream.end(); })"
    )
    await subject.invoke(spec, request_id="r4")
    await subject.driver.close()
    seen = [(row.request_id, row.message) for row in subject.lines.rows]
    assert seen == [("r4", "before"), ("r4", "between")]
