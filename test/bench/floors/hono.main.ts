/** What `POST /runs` is measured against: a bare Hono handler with one insert of three rows through the same driver. */
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { createDatabase } from '../../../src/db/client.js'
import { query } from '../../../src/db/query.js'

const { sql } = createDatabase(process.env['DATABASE_URL'] ?? '', { max: 10 })
await query(
	sql,
	'create table if not exists bench_rows (id bigint generated always as identity primary key, v text)',
)

const app = new Hono()
app.post('/rows', async (context) => {
	const { blueprint } = await context.req.json<{ blueprint: string }>()
	const [row] = await query<{ id: string }>(
		sql,
		'insert into bench_rows (v) values ($1::text), ($1::text), ($1::text) returning id',
		[blueprint],
	)
	return context.json({ id: row?.id }, 202)
})
serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) => console.log(`Listening on ${port}`))
