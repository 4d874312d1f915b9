"""The Lua scripts that change a shard's rows in the store; `tables.py` explains how they work together.

A row's seal, before its value, has 16 bytes.
"""

NUMBER_MAX = 5_000_000_000_000
"""The largest version, epoch or token. Lua writes integers up to 99,999,999,999,999 without an exponent."""

WHOLE = """
local function whole(text)
  if not text or #text > 13 or not string.find(text, '^%d+$') then return nil end
  if #text > 1 and string.byte(text) == 48 then return nil end
  local found = tonumber(text)
  if found <= 5000000000000 then return found end
end
"""
"""Reads a whole number from 0 to `NUMBER_MAX`; nil for any other text."""

PRELUDE = (
    WHOLE
    + """
local function head(field) return redis.call('HGET', KEYS[1], field) end
local function number(field) return whole(head(field)) or 0 end
local held = number('epoch')
if held > tonumber(ARGV[1]) then return {-1, held} end
local function damaged(...) return {-2, table.concat({...})} end
local function newest()
  -- A full store may have evicted the head and kept the snapshots: the new version must be above all of them.
  local version, kept = number('version'), {}
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    local old = whole(field)
    if old then
      kept[#kept + 1] = old
      version = math.max(version, old)
    else
      redis.call('HDEL', KEYS[2], field)
    end
  end
  return version, kept
end
local function draw()
  local token = head('token')
  if token and not whole(token) then redis.call('HSET', KEYS[1], 'token', ARGV[1]) end
  return redis.call('HINCRBY', KEYS[1], 'token', 1)
end
local function tables()
  local names, first, fields = {}, nil, redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    local name = string.match(fields[i], '^table:(.*)$')
    if name then
      names[#names + 1] = name
      first = math.min(first or math.huge, whole(fields[i + 1]) or 0)
    end
  end
  return names, first
end
"""
)
"""The beginning of every script: KEYS[1] is the head, ARGV[1] the epoch; `newest` reads the snapshots at KEYS[2]."""

# ARGV: epoch, digest, base, undo prefix, rows prefix, tables. Returns version, token and digest: a token of 0 if this
# digest is saved already; the digest is that of the last save, or empty after a rewind.
BEGIN = (
    PRELUDE
    + """
if head('digest') == ARGV[2] then return {0, number('version'), 0, ARGV[2]} end
local version, by = newest(), head('by')
if head('doomed') then return damaged('a rewind was begun and not finished') end
if by ~= ARGV[1] and (by or version > 0) then return damaged('epoch ', ARGV[1], ' has not rewound the tables yet') end
if version < tonumber(ARGV[3]) then
  return damaged('the changes rest on version ', ARGV[3], ', and the store has lost all after ', version)
end
local attempt = number('attempt')
if attempt == 0 then
  attempt = version + 1
  redis.call('UNLINK', ARGV[4] .. attempt)
  redis.call('HSET', ARGV[4] .. attempt, '', 1)
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'by', ARGV[1], 'attempt', attempt)
for i = 6, #ARGV do
  -- Rows of a table that the head does not list are left over from a head that the store evicted.
  if redis.call('HSETNX', KEYS[1], 'table:' .. ARGV[i], attempt) == 1 then redis.call('UNLINK', ARGV[5] .. ARGV[i]) end
end
return {0, attempt, draw(), head('digest') or ''}
"""
)

# KEYS: head, rows, undo. ARGV: epoch, token, table, a packed chunk. Returns the seals of the rows in the last version.
WRITE = (
    PRELUDE
    + r"""
if head('token') ~= ARGV[2] then return {-3} end
-- Few calls for all rows: a call costs as much as a row.
local prefix, chunk, keys, fields = ARGV[3] .. '\0', cmsgpack.unpack(ARGV[4]), {}, {}
for i = 1, #chunk, 2 do
  keys[#keys + 1] = chunk[i]
  fields[#fields + 1] = prefix .. chunk[i]
end
local were, noted = redis.call('HMGET', KEYS[2], unpack(keys)), redis.call('HMGET', KEYS[3], unpack(fields))
local undo, rows, gone, past, owners, lengths = {}, {}, {}, {}, {}, {}
for i, key in ipairs(keys) do
  local was = noted[i] or were[i] or ''
  if was ~= '' then
    if #was < 16 then return damaged('a row of the table ', ARGV[3], ' has no seal') end
    past[#past + 1] = string.sub(was, 1, 16)
    owners[#owners + 1] = key
    lengths[#lengths + 1] = #key
  end
  if not noted[i] then
    undo[#undo + 1] = fields[i]
    undo[#undo + 1] = were[i] or ''
  end
  local row = chunk[2 * i]
  if row == '' then
    gone[#gone + 1] = key
  else
    rows[#rows + 1] = key
    rows[#rows + 1] = row
  end
end
if #undo > 0 then redis.call('HSET', KEYS[3], unpack(undo)) end
if #rows > 0 then redis.call('HSET', KEYS[2], unpack(rows)) end
if #gone > 0 then redis.call('HDEL', KEYS[2], unpack(gone)) end
return {0, table.concat(past), table.concat(owners), table.concat(lengths, ' ')}
"""
)

# KEYS: head, snapshots, notes. ARGV: epoch, version, undo prefix, rows prefix, keys that a lost head no longer lists.
# Delete the versions before the rows change, so that nobody loads a version whose rows are partly rewound.
REWIND = (
    PRELUDE
    + """
local target, undo = tonumber(ARGV[2]), ARGV[3]
local version, kept = newest()
local names, first = tables()
local doomed, dropped = {}, {}
for old in string.gmatch(head('doomed') or '', '%d+') do doomed[#doomed + 1] = whole(old) end
if head('attempt') then doomed[#doomed + 1] = number('attempt') end
for _, old in ipairs(kept) do
  if old > target then
    dropped[#dropped + 1] = old
    if first and old >= first then doomed[#doomed + 1] = old end
  end
end
if target > 0 then
  if redis.call('HEXISTS', KEYS[2], target) == 0 then return damaged('version ', target, ' is not kept') end
  if not whole(head('version')) then return damaged('the head is lost, and what was half saved with it') end
  for _, old in ipairs(doomed) do
    if redis.call('HEXISTS', undo .. old, '') == 0 then return damaged('the journal of version ', old, ' is gone') end
  end
else
  for _, name in ipairs(names) do
    redis.call('UNLINK', ARGV[4] .. name)
    redis.call('HDEL', KEYS[1], 'table:' .. name)
  end
  for i = 5, #ARGV do redis.call('UNLINK', ARGV[i]) end
  for _, old in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('UNLINK', undo .. old) end
  for _, old in ipairs(doomed) do redis.call('UNLINK', undo .. old) end
  redis.call('UNLINK', KEYS[2], KEYS[3])
end
table.sort(doomed, function(one, other) return one > other end)
for _, old in ipairs(dropped) do
  redis.call('HDEL', KEYS[2], old)
  redis.call('HDEL', KEYS[3], old)
end
redis.call('HDEL', KEYS[1], 'attempt', 'doomed', 'digest', 'offset')
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'by', ARGV[1], 'version', math.max(version, doomed[1] or 0))
if target == 0 then doomed = {} end
if #doomed > 0 then redis.call('HSET', KEYS[1], 'doomed', table.concat(doomed, ' ')) end
return {0, draw(), unpack(doomed)}
"""
)

# KEYS: head, undo. ARGV: epoch, token, rows prefix, cursor, count.
RESTORE = (
    PRELUDE
    + r"""
if head('token') ~= ARGV[2] then return {-3} end
if redis.call('HEXISTS', KEYS[2], '') == 0 then return damaged('a journal went while it was applied') end
local page, bytes = redis.call('HSCAN', KEYS[2], ARGV[4], 'COUNT', ARGV[5]), 0
local entries = page[2]
for i = 1, #entries, 2 do
  local cut = string.find(entries[i], '\0', 1, true)
  if cut then
    local rows, key = ARGV[3] .. string.sub(entries[i], 1, cut - 1), string.sub(entries[i], cut + 1)
    bytes = bytes + #key + #entries[i + 1]
    if entries[i + 1] == '' then redis.call('HDEL', rows, key) else redis.call('HSET', rows, key, entries[i + 1]) end
  end
end
return {0, page[1], #entries / 2, bytes}
"""
)

# KEYS: rows. ARGV: cursor, count. Returns the seals and keys of a page of rows, and its size in bytes.
SEALS = """
local page, seals, bytes = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}, 0
local entries, keys, lengths = page[2], {}, {}
for i = 2, #entries, 2 do
  seals[#seals + 1] = string.sub(entries[i], 1, 16)
  keys[#keys + 1] = entries[i - 1]
  lengths[#lengths + 1] = #entries[i - 1]
  bytes = bytes + #entries[i - 1] + #entries[i]
end
return {page[1], #entries / 2, bytes, table.concat(seals), table.concat(keys), table.concat(lengths, ' ')}
"""

# KEYS: head. ARGV: epoch, token, undo prefix.
DROP = (
    PRELUDE
    + """
if head('token') ~= ARGV[2] then return {-3} end
for old in string.gmatch(head('doomed') or '', '%d+') do redis.call('UNLINK', ARGV[3] .. old) end
redis.call('HDEL', KEYS[1], 'doomed')
return {0}
"""
)
