// What postgres.js sees of a server: `node postgres_js_check.js URL whole|keyed` prints it.
'use strict'

const postgres = require('postgres')
const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')

const [url, part] = process.argv.slice(2)
const checks = { whole: [], keyed: [] }
const check = (list, run) => checks[list].push(run)
const text = (value) => JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}n` : v))
const show = (label, ...values) => console.log(`  ${label}:`, ...values.map(text))
const connect = (options = {}) => postgres(url, { max: 1, onnotice: (n) => show('notice', n.severity, n.message), ...options })

async function failure(label, run) {
  try {
    show(label, 'no error', await run())
  } catch (e) {
    show(label, e.name, e.code, e.severity, e.message, e.detail, e.position, e.constraint_name)
  }
}

check('whole', async function tagged(sql) {
  const values = [7, 'it\'s "ż" \\', null, true, new Date(Date.UTC(2024, 1, 29)), Buffer.from([0, 255])]
  show('values', await sql`SELECT ${values[0]}::int AS a, ${values[1]}::text AS b, ${values[2]}::text AS c, ${values[3]}::bool AS d`)
  show('more', await sql`SELECT ${values[4]}::timestamptz AS e, ${values[5]}::bytea AS f, ${[1, 2]}::int[] AS g, ${sql.json({ a: [1] })}::jsonb AS h`)
  await sql`CREATE TYPE js_mood AS ENUM ('sad', 'glad')`
  await sql`CREATE TABLE js_t (id serial PRIMARY KEY, name text UNIQUE, mood js_mood, moods js_mood[])`
  const people = ['ann', 'bob', 'eve'].map((name) => ({ name, mood: 'glad', moods: '{sad,glad}' }))
  show('insert', await sql`INSERT INTO js_t ${sql(people)} RETURNING *`)
  show('update', (await sql`UPDATE js_t SET ${sql({ mood: 'sad' })} WHERE name IN ${sql(['ann', 'eve'])}`).count)
  const glad = sql`WHERE mood = ${'glad'}`
  show('fragment', await sql`SELECT ${sql(['id', 'name'])} FROM ${sql('js_t')} ${glad}`)
  for (let n = 0; n < 8; n++) show('prepared', await sql`SELECT name FROM js_t WHERE id = ${n}`)
  show('columns', (await sql`SELECT id, name FROM js_t LIMIT 0`).columns.map((c) => [c.name, c.type]), (await sql`SELECT 1`.values())[0])
  show('described', (await sql`SELECT * FROM js_t WHERE id = ${1}`.describe()).types)
  show('simple', await sql`SELECT 1 AS a; SELECT 2 AS b`.simple())
  show('unsafe', await sql.unsafe('SELECT $1::int + 1 AS n', [4]), await sql.unsafe('SELECT 1 AS a; SELECT 2 AS a'))
  show('unprepared', await connect({ prepare: false })`SELECT ${3}::int AS n`)
  show('queued', await Promise.all(Array.from({ length: 50 }, (_, n) => sql`SELECT ${n}::int AS n`.then((r) => r[0].n))))
})

check('whole', async function errors(sql) {
  await failure('syntax', () => sql`SELEC`)
  await failure('table', () => sql`SELECT * FROM js_nowhere`)
  await failure('unique', () => sql`INSERT INTO js_t (name) VALUES (${'ann'})`)
  await failure('value', () => sql`SELECT ${'x'}::int`)
  await failure('division', () => sql`SELECT ${1}::int / 0`)
  await sql`ALTER TABLE js_t ADD COLUMN added int`
  await failure('changed', () => sql`SELECT * FROM js_t WHERE id = ${1}`)
  const slow = sql`SELECT pg_sleep(60)`
  setTimeout(() => slow.cancel(), 200)
  await failure('cancelled', () => slow)
  show('still', await sql`SELECT count(*) FROM js_t`)
})

check('whole', async function transactions(sql) {
  const ids = await sql.begin(async (t) => {
    await t`INSERT INTO js_t (name) VALUES ('zoe')`
    await t.savepoint((s) => s`INSERT INTO js_t (name) VALUES ('zoe')`).catch((e) => show('savepoint', e.code))
    await t.savepoint('named', (s) => s`INSERT INTO js_t (name) VALUES ('kim')`)
    return Promise.all([t`SELECT count(*) FROM js_t`, t`SELECT name FROM js_t ORDER BY id DESC LIMIT 1`])
  })
  show('pipelined', ids)
  await failure('rolled back', () => sql.begin(async (t) => {
    await t`DELETE FROM js_t`
    throw new Error('no')
  }))
  await failure('read only', () => sql.begin('isolation level serializable read only', (t) => t`DELETE FROM js_t`))
  show('left', await sql`SELECT count(*) FROM js_t`)
  const many = connect({ max: 9 })
  const work = (n) => many.begin(async (t) => {
    await t`SELECT set_config('js.mine', ${String(n)}, true)`
    await t`SELECT pg_sleep(0.002)`
    return (await t`SELECT current_setting('js.mine') AS mine`)[0].mine
  })
  show('mine', await Promise.all(Array.from({ length: 60 }, (_, n) => work(n))))
  const reserved = await many.reserve()
  await reserved`SET application_name = 'reserved'`
  show('reserved', await reserved`SHOW application_name`)
  reserved.release()
  await many.end()
})

check('whole', async function cursors(sql) {
  const numbers = () => sql`SELECT g FROM generate_series(1, 2500) g`
  let sizes = []
  await numbers().cursor(700, (rows) => void sizes.push(rows.length))
  for await (const rows of numbers().cursor(1000)) sizes.push(rows[0].g)
  show('cursor', sizes)
  sizes = []
  await numbers().cursor(10, (rows) => (sizes.push(rows[0].g), sizes.length === 3 ? sql.CLOSE : undefined))
  show('left early', sizes, await sql`SELECT 1 AS after`)
  let sum = 0
  await numbers().forEach((row) => (sum += row.g))
  show('forEach', sum)
})

check('whole', async function copy(sql) {
  await sql`CREATE TABLE js_copy (a int PRIMARY KEY, b text)`
  const lines = Array.from({ length: 5000 }, (_, n) => `${n}\trow ${n}\n`)
  await pipeline(Readable.from(lines), await sql`COPY js_copy FROM STDIN`.writable())
  const out = await sql`COPY (SELECT * FROM js_copy WHERE a > 4997 ORDER BY a) TO STDOUT`.readable()
  let back = ''
  for await (const chunk of out) back += chunk
  show('copied', back, await sql`SELECT count(*), sum(a) FROM js_copy`)
  await failure('twice', async () => pipeline(Readable.from(['1\tx\n']), await sql`COPY js_copy FROM STDIN`.writable()))
  show('after', await sql`SELECT count(*) FROM js_copy`)
})

check('whole', async function listening(sql) {
  const heard = []
  let wake
  const all = new Promise((resolve) => (wake = resolve))
  const listener = await sql.listen('js_channel', (payload) => heard.push(payload) === 3 && wake())
  await sql.notify('js_channel', 'one')
  await sql.begin(async (t) => {
    await t`SELECT pg_notify('js_channel', 'two')`
    await t`NOTIFY js_channel, 'three'`
  })
  await all
  show('heard', heard)
  await listener.unlisten()
  await sql`DO $$ BEGIN RAISE NOTICE 'said'; END $$`
})

check('whole', async function large(sql) {
  const [{ oid }] = await sql`SELECT lo_from_bytea(0, ${Buffer.alloc(100000, 7)}) AS oid`
  const object = await sql.largeObject(oid)
  show('size', await object.size())
  await object.seek(50)
  await object.write(Buffer.from('here'))
  await object.seek(48)
  show('read', [...(await object.read(8))[0].data])
  await object.close()
  await sql`SELECT lo_unlink(${oid})`
  const big = 'x'.repeat(2000000)
  show('back', (await sql`SELECT ${big}::text AS big`)[0].big === big)
})

check('keyed', async function keyed(sql) {
  const keys = { by_int: ['1', '2', '3', '1099511627776', '-4'], by_text: ['', 'ann', "o'neil", 'żuk'] }
  for (const [table, values] of Object.entries(keys)) {
    for (const key of values) {
      show('insert', await sql`INSERT INTO ${sql(table)} ${sql({ user_id: key, n: 1 })} RETURNING *`)
      await failure('again', () => sql`INSERT INTO ${sql(table)} ${sql({ user_id: key, n: 1 })}`)
      const block = await sql.begin((t) => [
        t`UPDATE ${sql(table)} SET n = n + ${5} WHERE user_id = ${key}`,
        t`SELECT n FROM ${sql(table)} WHERE user_id = ${key}`,
      ])
      show('block', block[0].count, block[1])
    }
    show('queued', await Promise.all(values.map((key) => sql`SELECT * FROM ${sql(table)} WHERE user_id = ${key}`)))
    show('in', (await sql`SELECT user_id FROM ${sql(table)} WHERE user_id IN ${sql(values)}`).map((r) => r.user_id).sort())
    show('all', await sql`SELECT count(*), sum(n) FROM ${sql(table)}`)
    for (const key of values) show('delete', (await sql`DELETE FROM ${sql(table)} WHERE user_id = ${key}`).count)
  }
})

async function main() {
  for (const run of checks[part]) {
    console.log(run.name)
    const sql = connect()
    try {
      await run(sql)
    } catch (e) {
      show('broke', e.code, e.stack)
    }
    await sql.end({ timeout: 1 })
  }
  process.exit(0)
}

main().catch((e) => {
  console.error(e)
  process.exit(1)
})
