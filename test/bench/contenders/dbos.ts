/**
 * DBOS: its own process starts and executes the workflows, over its default of 10 connections: with 20 and 50 it was slower
 * on two cores.
 */
import { spawnProcess } from '../../support/process.js'
import { openLook } from '../look.js'
import type { Contender } from './contender.js'

const FAN_OUT = 1_000

export const dbos: Contender = {
	id: 'dbos',
	name: 'DBOS 5.3.0',
	chain: { workload: 'chain?size=3', nodes: 3 },
	fanOut: { workload: `fan-out?size=${FAN_OUT}`, nodes: FAN_OUT + 2 },

	async start(lab) {
		const fresh = await lab.createDatabase({ migrated: false })
		const application = await spawnProcess({
			entry: 'test/bench/contenders/dbos.main.ts',
			env: { DATABASE_URL: fresh.url, POOL_SIZE: '10' },
			readyLine: /Listening on/,
			deadlineMs: 60_000,
		})
		const port = /Listening on (\d+)/.exec(application.tail())?.[1]
		const look = await openLook(fresh.url, `dbos.workflow_status where status in ('PENDING', 'ENQUEUED')`)
		return {
			watched: {
				databaseUrl: fresh.url,
				metricsPorts: [],
				pids: { postgres: [lab.postgres.pid], worker: [application.pid] },
			},
			async start(workload, count) {
				const response = await fetch(`http://127.0.0.1:${port}/${workload}&count=${count}`)
				if (!response.ok) throw new Error(`DBOS: ${await response.text()}`)
			},
			live: () => look.live(),
			async stop() {
				await application.kill()
				await look.close()
				await fresh.drop()
			},
		}
	},
}
