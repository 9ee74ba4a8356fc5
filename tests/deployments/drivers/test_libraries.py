"""Libraries written for AWS Lambda, as plain code of a function, with every driver."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.drivers.subjects import Subject
from tests.deployments.functions import body_of, write_function

pytestmark = pytest.mark.conformance

PACKAGES = Path(__file__).parent / "js" / "node_modules"
POWERTOOLS = """
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
const logger = new Logger({serviceName: 'shop'});
const metrics = new Metrics({namespace: 'Shop', serviceName: 'shop'});
export const handler = async (event, context) => {
  logger.addContext(context);
  logger.info('order placed', {order: 7});
  logger.error('no stock', new TypeError('sold out'));
  metrics.addMetric('orders', MetricUnit.Count, 1);
  metrics.publishStoredMetrics();
  return {statusCode: 200, body: context.awsRequestId};
};
"""


async def test_powertools_log_and_measure(subject: Subject) -> None:
    assert PACKAGES.is_dir(), "Run scripts/install.py --conformance first."
    spec = write_function(subject.folder, POWERTOOLS)
    shutil.copytree(PACKAGES, spec.folder / "node_modules")
    await subject.driver.prepare(spec)
    ids = [body_of(await subject.invoke(spec, request_id=each)) for each in ("r1", "r2")]
    await subject.driver.close()
    said = [(row.request_id, json.loads(row.message)) for row in subject.lines.rows]
    placed, again = _those(said, "message", "order placed")
    assert (placed["level"], placed["order"]) == ("INFO", 7)
    assert (placed["service"], placed["function_memory_size"]) == ("shop", "1024")
    assert [placed["function_request_id"], again["function_request_id"]] == ids
    assert (placed["cold_start"], again["cold_start"]) == (True, False)
    failed, _ = _those(said, "message", "no stock")
    assert failed["error"]["name"] == "TypeError"
    assert "index.mjs" in failed["error"]["stack"]
    measured, _ = _those(said, "orders", 1)
    (described,) = measured["_aws"]["CloudWatchMetrics"]
    assert described["Namespace"] == "Shop"


def _those(said: list[tuple[str, Any]], key: str, value: Any) -> list[dict[str, Any]]:
    """What was said with this value, once in each of the two runs."""
    found = [(request_id, each) for request_id, each in said if each.get(key) == value]
    assert [request_id for request_id, _ in found] == ["r1", "r2"]
    return [each for _, each in found]
