"""What a call used that did not end as it should: told and relayed together, nothing twice."""

import pytest

from billing.calls import usage_at_end
from billing.pricing import Usage
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def opening(organization):
    return factories.make_opening(
        organization=organization,
        price=factories.make_price(),
        input_tokens_estimate=100,
        output_tokens_max=1000,
    )


@pytest.mark.parametrize(
    ("told", "pieces", "output"),
    [
        (Usage(input=5, output=1), 40, 40),
        (Usage(input=5, output=60), 40, 60),
        # 40 pieces of sound are what the provider calls 300 tokens of sound and 10 of text.
        (Usage(input=5, output=10, audio_output=300), 40, 10),
        (Usage(input=5, image_output=1290), 3, 0),
        (Usage(input=5, output=2, audio_output=8), 40, 32),
    ],
)
@pytest.mark.parametrize("is_doubtful", [False, True])
def test_what_was_relayed_is_counted_once_whatever_it_was(
    opening, told, pieces, output, is_doubtful
):
    counts = {name: getattr(told, name) for name in ("input", "output", "audio_output")}
    told = Usage(**counts, image_output=told.image_output, is_doubtful=is_doubtful)
    used, source = usage_at_end(told, pieces_relayed=pieces, opening=opening, is_whole=False)
    assert used.output == output
    assert (used.audio_output, used.image_output) == (told.audio_output, told.image_output)
    assert used.whole_output == max(told.whole_output, pieces)
    assert source == ("ESTIMATED" if is_doubtful else "PROVIDER_PARTIAL")
