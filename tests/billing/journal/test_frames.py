"""Frames cut and changed at every byte: what is read is what was written, or damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.journal import frames
from billing.journal.frames import Damage, Frame

PAYLOADS = [b"a", b"second payload", b"\x00" * 40, b"last" * 100]
LOG = b"".join(map(frames.encode, PAYLOADS))


def payloads(data: bytes) -> list[bytes]:
    return [item.payload for item in frames.decode(data) if isinstance(item, Frame)]


def test_what_is_written_is_read_with_its_offset():
    read = list(frames.decode(LOG + bytes(100), 1000))
    assert [item.payload for item in read if isinstance(item, Frame)] == PAYLOADS
    assert [item.offset for item in read] == [1000, 1009, 1031, 1079]


def test_a_log_cut_anywhere_gives_whole_frames_only():
    for end in range(len(LOG)):
        read = payloads(LOG[:end])
        assert read == PAYLOADS[: len(read)]
        # And a preallocated segment, where zeros follow a frame that was written in part.
        torn = payloads(LOG[:end] + bytes(600))
        assert torn == PAYLOADS[: len(torn)]


def test_no_changed_bit_goes_unnoticed():
    for place in range(len(LOG)):
        for bit in range(8):
            changed = bytearray(LOG)
            changed[place] ^= 1 << bit
            good = payloads(bytes(changed) + bytes(600))
            assert good != PAYLOADS
            assert [payload for payload in good if payload not in PAYLOADS] == []


def test_damage_inside_a_frame_is_stepped_over():
    changed = bytearray(LOG)
    changed[20] ^= 1
    first, *rest = frames.decode(bytes(changed))
    assert isinstance(first, Frame)
    assert isinstance(rest[0], Damage)
    assert rest[0].end == 31
    assert [item.payload for item in rest[1:] if isinstance(item, Frame)] == PAYLOADS[2:]


def test_a_broken_length_hides_its_own_frame_alone():
    for number, offset in enumerate((0, 9, 31, 79)):
        for length in (0, 2, 30, 90, 5000, 2**31):
            changed = bytearray(LOG)
            if int.from_bytes(changed[offset : offset + 4], "little") == length:
                continue
            changed[offset : offset + 4] = length.to_bytes(4, "little")
            others = [*PAYLOADS[:number], *PAYLOADS[number + 1 :]]
            assert payloads(bytes(changed) + bytes(600)) == others


@given(st.binary(min_size=0, max_size=300))
def test_garbage_is_never_a_crash(data):
    for item in frames.decode(data):
        assert isinstance(item, Frame | Damage)


def test_a_payload_has_a_size():
    with pytest.raises(frames.FrameTooLong):
        frames.encode(b"")
    with pytest.raises(frames.FrameTooLong):
        frames.encode(bytes(frames.FRAME_BYTES_MAX))
    assert len(frames.encode(bytes(frames.FRAME_BYTES_MAX - 8))) == frames.FRAME_BYTES_MAX
