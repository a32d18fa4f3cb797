/**
 * What Postgres itself does: pgbench with transactions of three inserts, either the rows that we write for a node (in
 * our tables, with their indexes) or rows as bare as can be.
 */
import { asAdmin } from '../../support/services/suite.js'
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freshFolder } from '../../support/services/index.js'
import type { Lab } from '../lab.js'

const run = promisify(execFile)

/** One node that has ended, its successor, and the message for that one. */
const OUR_ROWS = `begin;
insert into flowcraft_nodes (run_id, node_id, state, worker_id, claim_token, claimed_at, input_node, output, finished_seq, finished_at)
	values (gen_random_uuid()::text, 'n0', 'completed', gen_random_uuid(), gen_random_uuid(), now(), 'n0', '1', 1, now());
insert into flowcraft_nodes (run_id, node_id, state, input_node) values (gen_random_uuid()::text, 'n1', 'ready', 'n0');
insert into flowcraft_outbox (run_id, node_id, blueprint_id) values (gen_random_uuid()::text, 'n1', 'chain-3');
commit;
`
const BARE_ROWS = `begin;
insert into bench_rows (v) values ('a');
insert into bench_rows (v) values ('b');
insert into bench_rows (v) values ('c');
commit;
`
const SCRIPTS = { ours: OUR_ROWS, bare: BARE_ROWS }

export interface PgbenchLoad {
	readonly rows: keyof typeof SCRIPTS
	readonly clients: number
	readonly seconds: number
}

/** Transactions per second; undefined where there is no pgbench. */
export async function pgbench(
	lab: Lab,
	{ rows, clients, seconds }: PgbenchLoad,
): Promise<number | undefined> {
	if (lab.pgbench === undefined) return undefined
	const database = await lab.createDatabase()
	try {
		await asAdmin(database.url, (sql) =>
			sql.unsafe(
				'create table bench_rows (id bigint generated always as identity primary key, v text)',
			),
		)
		const script = join(freshFolder('pgbench'), `${rows}.sql`)
		await writeFile(script, SCRIPTS[rows])
		const { hostname, port, pathname } = new URL(database.url)
		const { stdout } = await run(
			lab.pgbench,
			[
				...['--host', hostname, '--port', port, '--username', 'postgres'],
				...['--no-vacuum', '--protocol', 'prepared', '--file', script],
				...[
					'--client',
					String(clients),
					'--jobs',
					String(Math.min(clients, 2)),
					'--time',
					String(seconds),
				],
				pathname.slice(1),
			],
			{ env: { PATH: process.env['PATH'] } },
		)
		const rate = /^tps = ([\d.]+)/m.exec(stdout)?.[1]
		if (rate === undefined) throw new Error(`pgbench said no rate:\n${stdout}`)
		return Number(rate)
	} finally {
		await database.drop()
	}
}
