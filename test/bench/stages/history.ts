import { asAdmin } from '../../support/services/suite.js'
import type { Lab, LabDatabase } from '../lab.js'
import type { Stage } from '../session.js'

const NODES_PER_RUN = 10
/** Runs per statement of the loading. */
const CHUNK_RUNS = 20_000

/** Filled once and used by all repetitions: loading takes longer than measuring. */
let filled: LabDatabase | undefined

/** The same chains in an empty database and in one with the history of a million nodes, in turn. */
export const history: Stage = {
	name: 'history',
	summary:
		'the chain of 3 in an empty database and in one with a million finished nodes (--quick: 100,000)',
	async run(session) {
		await session.quiet()
		const { inFlight, historyNodes } = session.sizes
		filled ??= await fill(session.lab, historyNodes / NODES_PER_RUN)
		for (const [name, database] of [
			['empty database', undefined],
			['beside finished nodes', filled],
		] as const) {
			const system = await session.startSystem(database === undefined ? {} : { database })
			try {
				await session.pace(`chain of 3, ${name}`, system, { workload: 'chain-3', inFlight })
			} finally {
				await system.stop()
			}
		}
	},
	async close() {
		await filled?.drop()
		filled = undefined
	},
}

async function fill(lab: Lab, runs: number): Promise<LabDatabase> {
	const database = await lab.createDatabase()
	await asAdmin(database.url, async (sql) => {
		await sql.unsafe('set synchronous_commit = off')
		for (let from = 0; from < runs; from += CHUNK_RUNS) {
			const to = Math.min(from + CHUNK_RUNS, runs) - 1
			// Ids in the order of time, as UUIDs of version 7 are, of runs that ended within the last weeks.
			const past = `select i, lpad(to_hex(1700000000000 + i), 12, '0') || '-7000-8000-' || lpad(i::text, 12, '0') as run_id,
				now() - interval '30 days' + i * interval '20 seconds' as at from generate_series(${from}, ${to}) i`
			await sql.unsafe(`insert into flowcraft_statuses
					(run_id, status, blueprint_id, blueprint_hash, live_count, commit_seq, created_at, updated_at, finished_at)
				select run_id, 'completed', 'old', 'old', 0, ${NODES_PER_RUN}, at, at, at from (${past}) past`)
			await sql.unsafe(`insert into flowcraft_contexts (run_id, key, value, seq)
				select run_id, 'n', '1', 0 from (${past}) past`)
			await sql.unsafe(`insert into flowcraft_nodes
					(run_id, node_id, state, worker_id, claim_token, claimed_at, input_node, output, finished_seq,
					created_at, emitted_at, finished_at)
				select run_id, 'n' || n, 'completed', gen_random_uuid(), gen_random_uuid(), at, 'n0', '1', n, at, at, at
				from (${past}) past, generate_series(1, ${NODES_PER_RUN}) n`)
			await sql.unsafe(`insert into flowcraft_transitions (recorded_at, run_id, status)
				select at, run_id, status from (${past}) past, unnest(array['running', 'completed']) status`)
		}
		await sql.unsafe('vacuum analyze')
		await sql.unsafe('checkpoint')
	})
	return database
}
