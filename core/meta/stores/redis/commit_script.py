# SPDX-License-Identifier: Apache-2.0
"""The commit: one script that verifies every check, then applies every write.

KEYS: the keys of all operations in order (most take one). ARGV: the operations of the checks and of the writes, one
letter each, the key prefix, then their operands in order. `writing.py` produces them; the letters are listed there.

Redis doesn't roll a script back, so nothing may fail once something was written: a first pass over the writes reads
each key with a command of its type (a wrong type ends the script there), and proves that what is added to is a
number. After the first write the server itself refuses no more (memory, read-only, disk checks come before it); that
the user has the right to every command is proven by the first commit, on a key that exists for nobody else ("~").

Lua numbers are doubles: inodes, slice ids and times pass through as bytes or decimal text, never as numbers. Only
link counts, seconds of zset scores and the sign of a reference count are looked at as numbers.

Replies: 1 done; -n operation n (checks first, then writes) conflicts; {-n, entry, attribute} the same for an entry or
an inode (entry: false), with what is there; {freed fields, directories without statistics}.
Source: format §2 (attribute layout), §3.4, §4.3–4.8.
"""

from typing import Final

COMMIT: Final = r"""
local call, sub, byte, find, match = redis.call, string.sub, string.byte, string.find, string.match
local K, A = KEYS, ARGV
local checks, writes, P = A[1], A[2], A[3]
local prove = sub(checks, 1, 1) == '!'
if prove then checks = sub(checks, 2) end
local k, a = 0, 3
local Z8 = '\0\0\0\0\0\0\0\0'
local typed = {}

-- ACL ids (8 bytes) and tier (1 byte) of an attribute, however long it is stored.
local function tail(raw, n)
  if n >= 80 then return sub(raw, 72, 80) end
  if n == 79 then return sub(raw, 72, 79) .. '\0' end
  if n >= 72 then return Z8 .. sub(raw, 72, 72) end
  return Z8 .. '\0'
end

local function same_attr(raw, seen)
  if raw == seen then return true end
  if not raw then return false end
  local n = #raw
  local head = n >= 71 and sub(raw, 1, 71) or (sub(raw, 1, 63) .. Z8)
  return head == sub(seen, 1, 71) and tail(raw, n) == tail(seen, #seen)
end

-- Attribute of what a directory entry points to, nil for other hash fields: the next try needs it.
local function directory(key) return match(sub(key, #P + 1), '^d%d+$') end
local function entry(key, value)
  if #value ~= 9 or not directory(key) then return nil end
  return call('GET', P .. 'i' .. ino(value))
end

local function list(key) return table.concat(call('LRANGE', key, 0, -1)) end

for i = 1, #checks do
  local op, ok = sub(checks, i, i), false
  k = k + 1
  local key = K[k]
  if op == 'I' then
    a = a + 1
    local raw = call('GET', key)
    if raw then
      local n = #raw
      ok = sub(raw, 1, 11) .. (n >= 71 and sub(raw, 64, 71) or Z8) .. tail(raw, n) == A[a]
    end
  elseif op == 'N' then
    a = a + 1
    local there = call('HGET', key, A[a])
    typed[key] = true
    ok = not there
    if there then
      local found = entry(key, there)
      if found then return {-i, there, found} end
    end
  elseif op == 'H' then
    a = a + 2
    local there = call('HGET', key, A[a - 1])
    typed[key] = true
    ok = there == A[a]
    if not ok then
      local found = there and entry(key, there)
      if found then return {-i, there, found} end
      if not there and directory(key) then return {-i, false, false} end
    end
  elseif op == 'A' then
    a = a + 1
    local raw = call('GET', key)
    ok = same_attr(raw, A[a])
    if raw and not ok then return {-i, false, raw} end
  elseif op == 'M' then ok = call('EXISTS', key) == 0
  elseif op == 'E' then ok = call('EXISTS', key) == 1
  elseif op == 'S' then
    a = a + 1
    ok = call('GET', key) == A[a]
  elseif op == 'C' then
    a = a + 1
    ok = (call('GET', key) or A[a + 1]) == A[a]
    a = a + 1
  elseif op == 'R' then
    a = a + 2
    ok = (call('HGET', key, A[a - 1]) or call('GET', P .. A[a - 1]) or '0') == A[a]
  elseif op == 'L' then
    a = a + 1
    ok = list(key) == A[a]
  elseif op == 'G' then
    -- chunks: count, n, then n times index and value; all other indexes below count must be missing
    local count, n = tonumber(A[a + 1]), tonumber(A[a + 2])
    local seen = {}
    a = a + 2
    for _ = 1, n do
      seen[tonumber(A[a + 1])] = A[a + 2]
      a = a + 2
    end
    ok = true
    for index, value in pairs(seen) do
      if list(key .. string.format('%d', index)) ~= value then ok = false break end
    end
    for index = 0, count - 1 do
      if not ok then break end
      if not seen[index] and call('EXISTS', key .. index) == 1 then ok = false end
    end
  elseif op == 'D' then
    local n = tonumber(A[a + 1])
    ok = call('HLEN', key) == n
    for j = a + 2, a + 2 * n, 2 do
      if not ok then break end
      ok = call('HGET', key, A[j]) == A[j + 1]
    end
    a = a + 1 + 2 * n
  elseif op == 'P' then
    -- link counts by parent: those of 0 and below are as good as missing
    local n, positive = tonumber(A[a + 1]), 0
    for _, count in ipairs(call('HVALS', key)) do
      if tonumber(count) and tonumber(count) > 0 then positive = positive + 1 end
    end
    ok = positive == n
    for j = a + 2, a + 2 * n, 2 do
      if not ok then break end
      ok = call('HGET', key, A[j]) == A[j + 1]
    end
    a = a + 1 + 2 * n
  elseif op == 'Z' then
    a = a + 2
    local score = call('ZSCORE', key, A[a - 1])
    ok = score and tonumber(score) == tonumber(A[a])
  elseif op == 'z' then
    a = a + 1
    ok = not call('ZSCORE', key, A[a])
  elseif op == 'T' or op == 't' then
    a = a + 1
    ok = (call('SISMEMBER', key, A[a]) == 1) == (op == 'T')
  elseif op == 'U' then
    a = a + 4
    ok = call('HGET', key, A[a - 3]) == A[a - 2] and call('HGET', K[k + 1], A[a - 3]) == A[a - 1]
      and call('HGET', K[k + 2], A[a - 3]) == A[a]
    k = k + 2
  elseif op == 'V' then
    a = a + 1
    ok = call('HEXISTS', key, A[a]) == 0 or call('HEXISTS', K[k + 1], A[a]) == 0
      or call('HEXISTS', K[k + 2], A[a]) == 0
    k = k + 2
  end
  if not ok then return -i end
end

-- While a cluster moves our slot to another node, keys that are missing here can't be used, not even those that this
-- script itself has just emptied. Looking for one that never exists ends the script before it has written anything.
if #writes > 0 and P ~= '' then call('EXISTS', P .. '~') end

-- The first commit of a client proves that its user may run each command that writes. Each pair leaves nothing behind.
if prove then
  for _, c in ipairs({
    {'SETRANGE', '0', ''}, {'DEL'}, {'SET', '1'}, {'INCRBY', '0'}, {'INCR'}, {'DEL'}, {'HSET', 'a', '1'},
    {'HSETNX', 'a', '1'}, {'HINCRBY', 'a', '0'}, {'HDEL', 'a'}, {'RPUSH', 'a'}, {'LTRIM', '1', '0'}, {'SADD', 'a'},
    {'SREM', 'a'}, {'ZADD', '1', 'a'}, {'ZREM', 'a'},
  }) do
    local reply = redis.pcall(c[1], P .. '~', unpack(c, 2))
    if type(reply) == 'table' and reply.err then
      -- Memory is full: the server asks only once per script, and the commit's own first write has to be the one.
      if find(reply.err, 'OOM') then break end
      redis.pcall('DEL', P .. '~')
      if not find(reply.err, 'executing the script') and not find(reply.err, 'NOPERM') then return reply end
      return redis.error_reply('NOPERM the user may not run ' .. c[1])
    end
  end
end

-- Pass one over the writes: nothing below may fail in pass two.
local k0, a0 = k, a
local removes = find(writes, '[dxX]') -- then what was seen in pass one may be gone when its turn comes
local whole = {} -- operations whose three hash fields were all there
local old = {} -- operations whose reference count has to move into the hash

local function corrupt(key) return redis.error_reply('CORRUPT ' .. key .. ' does not hold what it should') end

-- Can `delta` be added to `value` (false: nothing yet)? Doubles are exact enough to stay clear of 2^63.
local function countable(value, delta)
  if not value then return true end
  return find(value, '^%-?%d+$') and math.abs(tonumber(value) + tonumber(delta)) < 9.2e18
end

local function require_type(key, probe)
  if not typed[key] then
    call(probe, key)
    typed[key] = true
  end
end

for i = 1, #writes do
  local op = sub(writes, i, i)
  k = k + 1
  local key = K[k]
  if op == 'S' or op == 's' or op == 'l' then a = a + 1
  elseif op == 'H' or op == 'h' then
    a = a + 2
    require_type(key, 'HLEN')
  elseif op == 'p' then
    a = a + 1
    local n = call('STRLEN', key)
    if n == 0 then return -(#checks + i) end
    if n < 63 then return corrupt(key) end
  elseif op == 'q' then
    a = a + 3
    local n = call('STRLEN', key)
    if n == 0 then return -(#checks + i) end
    if n < 63 then return corrupt(key) end
  elseif op == 'i' then
    a = a + 1
    if not countable(call('GET', key), A[a]) then return corrupt(key) end
  elseif op == 'u' then
    a = a + 4
    local f, found = A[a - 3], not removes
    for j = 0, 2 do
      local v = call('HGET', K[k + j], f)
      if not countable(v, A[a - 2 + j]) then return corrupt(K[k + j]) end
      found = found and v
    end
    whole[i] = found
    k = k + 2
  elseif op == 'v' then
    a = a + 3
    local f, found = A[a - 2], not removes and call('HEXISTS', key, A[a - 2]) == 1
    require_type(key, 'HLEN')
    for j = 1, 2 do
      local v = call('HGET', K[k + j], f)
      if not countable(v, A[a - 2 + j]) then return corrupt(K[k + j]) end
      found = found and v
    end
    whole[i] = found
    k = k + 2
  elseif op == 'x' then
    a = a + 1
    require_type(key, 'HLEN')
  elseif op == 'r' or op == 'R' then
    a = a + 1
    require_type(key, 'LLEN')
  elseif op == 'j' then
    a = a + 2
    if not countable(call('HGET', key, A[a - 1]), A[a]) then return corrupt(key) end
  elseif op == 'k' then
    a = a + 2
    local v = call('HGET', key, A[a - 1])
    if not v then
      -- very old volumes kept each count under a key of its own
      v = call('GET', P .. A[a - 1])
      old[i] = v
    end
    if not countable(v, A[a]) then return corrupt(key) end
  elseif op == 'g' then
    a = a + 1
    require_type(key, 'LLEN')
    if not countable(call('GET', K[k + 1]), '1') then return corrupt(K[k + 1]) end
    k = k + 1
  elseif op == 'z' or op == 'y' then
    a = a + 2
    require_type(key, 'ZCARD')
  elseif op == 'Z' then
    a = a + 1
    require_type(key, 'ZCARD')
  elseif op == 'a' or op == 'b' then
    a = a + 1
    require_type(key, 'SCARD')
  elseif op == 'X' then a = a + 1 + 2 * tonumber(A[a + 1])
  elseif op == 'T' then call('STRLEN', key)
  elseif op == 'F' then
    local n = tonumber(A[a + 1])
    for _, field in ipairs(call('HKEYS', key)) do
      require_type(P .. 'locked' .. (match(field, '^%d+') or ''), 'SCARD')
    end
    for j = a + 2, a + 2 * n, 2 do require_type(P .. 'locked' .. match(A[j], '^%d+'), 'SCARD') end
    a = a + 1 + 2 * n
  end
  -- 'd' (DEL) can't fail
end

-- Pass two: apply.
k, a = k0, a0
local bare, dropped = {}, nil

local function all_three(f, k)
  return call('HEXISTS', K[k], f) == 1 and call('HEXISTS', K[k + 1], f) == 1 and call('HEXISTS', K[k + 2], f) == 1
end

local function push(key, raw)
  for j = 1, #raw, 24 do call('RPUSH', key, sub(raw, j, j + 23)) end
end

for i = 1, #writes do
  local op = sub(writes, i, i)
  k = k + 1
  local key = K[k]
  if op == 'S' then
    a = a + 1
    call('SET', key, A[a])
  elseif op == 'H' then
    a = a + 2
    call('HSET', key, A[a - 1], A[a])
  elseif op == 'p' then
    a = a + 1
    -- mtime and ctime lie side by side at 23; an inode deleted a moment ago by this commit stays deleted
    if not removes or call('EXISTS', key) == 1 then call('SETRANGE', key, 23, A[a]) end
  elseif op == 'q' then
    a = a + 3
    if not removes or call('EXISTS', key) == 1 then
      local delta = tonumber(A[a - 2])
      if delta ~= 0 then
        local n1, n2, n3, n4 = byte(call('GETRANGE', key, 47, 50), 1, 4)
        local n = math.max(0, math.min(4294967295, ((n1 * 256 + n2) * 256 + n3) * 256 + n4 + delta))
        local floor = math.floor
        n1, n2, n3, n4 = floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256
        call('SETRANGE', key, 47, string.char(n1, n2, n3, n4))
      end
      if A[a - 1] ~= '' then call('SETRANGE', key, 23, A[a - 1]) end
      if A[a] ~= '' then call('SETRANGE', key, 35, A[a]) end
    end
  elseif op == 'i' then
    a = a + 1
    call('INCRBY', key, A[a])
  elseif op == 'u' then
    a = a + 4
    local f = A[a - 3]
    if whole[i] or all_three(f, k) then
      for j = 0, 2 do
        if A[a - 2 + j] ~= '0' then call('HINCRBY', K[k + j], f, A[a - 2 + j]) end
      end
    else
      bare[#bare + 1] = f
    end
    k = k + 2
  elseif op == 'v' then
    a = a + 3
    local f = A[a - 2]
    if whole[i] or all_three(f, k) then
      call('HINCRBY', K[k + 1], f, A[a - 1])
      call('HINCRBY', K[k + 2], f, A[a])
    end
    k = k + 2
  elseif op == 'd' then call('DEL', key)
  elseif op == 'x' then
    a = a + 1
    call('HDEL', key, A[a])
  elseif op == 'r' then
    a = a + 1
    push(key, A[a])
  elseif op == 'h' then
    a = a + 2
    call('HSETNX', key, A[a - 1], A[a])
  elseif op == 'g' then
    a = a + 1
    call('RPUSH', key, A[a])
    call('INCR', K[k + 1])
    k = k + 1
  elseif op == 'k' then
    a = a + 2
    if old[i] and call('HSETNX', key, A[a - 1], old[i]) == 1 then call('DEL', P .. A[a - 1]) end
    if call('HINCRBY', key, A[a - 1], A[a]) < 0 and sub(A[a], 1, 1) == '-' then
      dropped = dropped or {}
      dropped[A[a - 1]] = key
    end
  elseif op == 'j' then
    a = a + 2
    call('HINCRBY', key, A[a - 1], A[a])
  elseif op == 's' then
    a = a + 1
    call('SET', key, A[a], 'NX')
  elseif op == 'l' then
    a = a + 1
    call('DEL', key)
    push(key, A[a])
  elseif op == 'R' then
    a = a + 1
    if call('EXISTS', key) == 0 then push(key, A[a]) end
  elseif op == 'z' then
    a = a + 2
    call('ZADD', key, A[a - 1], A[a])
  elseif op == 'y' then
    a = a + 2
    call('ZADD', key, 'NX', A[a - 1], A[a])
  elseif op == 'Z' then
    a = a + 1
    call('ZREM', key, A[a])
  elseif op == 'a' then
    a = a + 1
    call('SADD', key, A[a])
  elseif op == 'b' then
    a = a + 1
    call('SREM', key, A[a])
  elseif op == 'X' then
    local n = tonumber(A[a + 1])
    call('DEL', key)
    for j = a + 2, a + 2 * n, 2 do call('HSET', key, A[j], A[j + 1]) end
    a = a + 1 + 2 * n
  elseif op == 'T' then
    local first = call('GETRANGE', key, 0, 0)
    if first ~= '' then call('SETRANGE', key, 0, first) end
  elseif op == 'F' then
    -- replace a lock table; the sets locked<sid> name the tables in which a session holds a lock
    local n = tonumber(A[a + 1])
    local new, sids = {}, {}
    for j = a + 2, a + 2 * n, 2 do
      new[A[j]] = true
      sids[match(A[j], '^%d+')] = true
    end
    local changed = false
    for _, field in ipairs(call('HKEYS', key)) do
      if not new[field] then
        local sid = match(field, '^%d+')
        call('HDEL', key, field)
        if sid and not sids[sid] then call('SREM', P .. 'locked' .. sid, key) end
        changed = true
      end
    end
    -- One of a thousand readers comes or goes: the others' fields needn't be written again.
    for j = a + 2, a + 2 * n, 2 do
      if call('HGET', key, A[j]) ~= A[j + 1] or not changed and j == a + 2 * n then
        call('HSET', key, A[j], A[j + 1])
        call('SADD', P .. 'locked' .. match(A[j], '^%d+'), key)
        changed = true
      end
    end
    a = a + 1 + 2 * n
  end
end

if not dropped and #bare == 0 then return 1 end
local freed = {}
if dropped then
  -- a count that went below zero may have come back later in this commit
  for field, key in pairs(dropped) do
    local now = call('HGET', key, field)
    if now and tonumber(now) < 0 then freed[#freed + 1] = field end
  end
end
return {freed, bare}
"""
