/**
 * OpenWorkflow: a client here, a worker in a process of its own. Its fan-out is steps side by side in one run, which
 * may have 1,000 steps in all.
 */
import { OpenWorkflow } from 'openworkflow'
import { BackendPostgres } from 'openworkflow/postgres'
import { spawnProcess } from '../../support/process.js'
import { openLook } from '../look.js'
import type { Contender } from './contender.js'
import { FAN_OUT, specs } from './openworkflow-workflows.js'

/** Runs at once: with 10 and 50 its chains were slower. */
const WORKER_CONCURRENCY = 100

export const openworkflow: Contender = {
	id: 'openworkflow',
	name: 'OpenWorkflow 0.10.1',
	chain: { workload: 'chain', nodes: 3 },
	fanOut: { workload: 'fan-out', nodes: FAN_OUT + 2 },

	async start(lab) {
		const fresh = await lab.createDatabase({ migrated: false })
		const backend = await BackendPostgres.connect(fresh.url)
		const client = new OpenWorkflow({ backend })
		const worker = await spawnProcess({
			entry: 'test/bench/contenders/openworkflow.main.ts',
			env: { DATABASE_URL: fresh.url, CONCURRENCY: String(WORKER_CONCURRENCY) },
			readyLine: /The worker runs/,
			deadlineMs: 60_000,
		})
		const look = await openLook(
			fresh.url,
			`openworkflow.workflow_runs where namespace_id = 'default' and status in ('pending', 'running', 'sleeping')`,
		)
		return {
			watched: {
				databaseUrl: fresh.url,
				metricsPorts: [],
				pids: { postgres: [lab.postgres.pid], worker: [worker.pid] },
			},
			async start(workload, count) {
				const known = specs.get(workload)
				if (known === undefined) throw new Error(`OpenWorkflow has no ${workload} here`)
				await Promise.all(
					Array.from({ length: count }, () => client.runWorkflow(known.spec, known.input)),
				)
			},
			live: () => look.live(),
			async stop() {
				await worker.kill()
				await backend.stop()
				await look.close()
				await fresh.drop()
			},
		}
	},
}
