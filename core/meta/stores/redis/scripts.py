# SPDX-License-Identifier: Apache-2.0
"""The server-side scripts for reading, and the type that carries a script.

All are read-only but `GATE` and `LOG_TRIM`. Inode numbers become key names through exact decimal arithmetic: trash
inodes are near 2^63, beyond what Lua's doubles hold. Source: format §4.3 (keys), §1.9 (gate), §4.9 (why scripts).
"""

from __future__ import annotations

import hashlib
from typing import Final

from core.meta.stores.redis.commit_script import COMMIT as _COMMIT


class Script:
    """Text and the name the server knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


#: Inode of a 9-byte entry value (bytes 2…9, big endian) as decimal text.
_DECIMAL = r"""
local call, byte, format, floor = redis.call, string.byte, string.format, math.floor
local function ino(raw)
  local b1, b2, b3, b4, b5, b6, b7, b8 = byte(raw, 2, 9)
  if not b8 then return '0' end -- damaged; the client reports it
  if b1 == 0 and b2 < 32 then -- below 2^53: a double holds it
    return format('%.0f', ((((((b2 * 256 + b3) * 256 + b4) * 256 + b5) * 256 + b6) * 256 + b7) * 256) + b8)
  end
  local limbs = {b1 * 256 + b2, b3 * 256 + b4, b5 * 256 + b6, b7 * 256 + b8}
  local function nine() -- divide by 10^9; every step stays below 2^46
    local rest = 0
    for i = 1, 4 do
      local x = rest * 65536 + limbs[i]
      limbs[i] = floor(x / 1e9)
      rest = x - limbs[i] * 1e9
    end
    return rest
  end
  local low, middle = nine(), nine()
  if limbs[4] == 0 then return format('%d%09d', middle, low) end
  return format('%d%09d%09d', limbs[4], middle, low)
end
"""

COMMIT: Final = Script(_DECIMAL + _COMMIT)

#: ARGV: prefix, first inode, "x" and "c" flags, names. Reply: attribute, {entry, attribute, …}, xattrs, chunk 0.
RESOLVE: Final = Script(
    _DECIMAL
    + r"""
local P, at, flags = ARGV[1], ARGV[2], ARGV[3]
local base = call('GET', P .. 'i' .. at)
local attr, steps, whole = base, {}, true
for i = 4, #ARGV do
  whole = false
  if not attr or floor((byte(attr, 2) or 0) / 16) ~= 2 then break end
  local entry = call('HGET', P .. 'd' .. at, ARGV[i])
  if not entry then break end
  at = ino(entry)
  attr = call('GET', P .. 'i' .. at)
  steps[#steps + 1] = entry
  steps[#steps + 1] = attr
  whole = true
end
local xattrs, chunk = false, false
if whole and attr then
  if string.find(flags, 'x', 1, true) then xattrs = call('HGETALL', P .. 'x' .. at) end
  if string.find(flags, 'c', 1, true) and floor((byte(attr, 2) or 0) / 16) == 1 then
    chunk = call('LRANGE', P .. 'c' .. at .. '_0', 0, -1)
  end
end
return {base, steps, xattrs, chunk}
"""
)

#: KEYS: i<dir>, d<dir>. ARGV: prefix, largest size to list at once, largest size to add attributes.
#: Reply: attribute, size, server time, entries (names and values), attributes in the same order.
LISTING: Final = Script(
    _DECIMAL
    + r"""
local raw, n, now = call('GET', KEYS[1]), call('HLEN', KEYS[2]), call('TIME')
if n > tonumber(ARGV[2]) then return {raw, n, now[1], false, false} end
local all = call('HGETALL', KEYS[2])
if n == 0 or n > tonumber(ARGV[3]) then return {raw, n, now[1], all, false} end
local keys, attrs = {}, {}
for i = 2, #all, 2 do keys[i / 2] = ARGV[1] .. 'i' .. ino(all[i]) end
for i = 1, #keys, 1000 do
  local page = call('MGET', unpack(keys, i, math.min(i + 999, #keys)))
  for j = 1, #page do attrs[i + j - 1] = page[j] end
end
return {raw, n, now[1], all, attrs}
"""
)

#: KEYS: counter. ARGV: now, least age. Reply: 1 if the gate opened. Seconds are exact as doubles.
GATE: Final = Script(
    r"""
local last = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
if last > tonumber(ARGV[1]) - tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""
)

#: KEYS: txnLog, txnLastLog. ARGV: version after which to begin, most lines. Reply: version of the first line, lines.
#: Versions are counted from the end, so that cutting lines off at the head changes none (format §9).
LOG_PAGE: Final = Script(
    r"""
local last, n = tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('LLEN', KEYS[1])
local first = last - n + 1
local at = math.max(0, tonumber(ARGV[1]) + 1 - first)
return {first + at, redis.call('LRANGE', KEYS[1], at, at + tonumber(ARGV[2]) - 1)}
"""
)

#: KEYS: as above. ARGV: last version to remove, most lines to remove. Reply: how many were removed.
LOG_TRIM: Final = Script(
    r"""
local last, n = tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('LLEN', KEYS[1])
local count = math.min(n, tonumber(ARGV[2]), tonumber(ARGV[1]) - (last - n))
if count <= 0 then return 0 end
redis.call('LTRIM', KEYS[1], count, -1)
return count
"""
)

ALL: Final = (COMMIT, RESOLVE, LISTING, GATE, LOG_PAGE, LOG_TRIM)
