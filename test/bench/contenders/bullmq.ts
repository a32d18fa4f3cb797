/**
 * BullMQ's flows in a Redis that keeps nothing: a client here, workers in one process of their own. A flow is a tree whose
 * children run first, so a chain is a job in a job in a job, and a fan-out a job with 1,000 children, with no node before
 * them.
 */
import { type FlowJob, FlowProducer, Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { spawnProcess } from '../../support/process.js'
import type { Contender } from './contender.js'

const FAN_OUT = 1_000
/** Its guide advises 100 to 300 for jobs like these; with 50 and 200 its chains were slower. */
const WORKER_CONCURRENCY = 300

/** The last job of a flow is in a queue of its own, which tells how many flows have not ended. */
const step = (children: FlowJob[] = []): FlowJob => ({ name: 'step', queueName: 'steps', children })
const run = (children: FlowJob[]): FlowJob => ({ name: 'run', queueName: 'runs', children })
const flows = new Map<string, () => FlowJob>([
	['chain', () => run([step([step()])])],
	['fan-out', () => run(Array.from({ length: FAN_OUT }, () => step()))],
])

export const bullmq: Contender = {
	id: 'bullmq',
	name: 'BullMQ 6.7.0 flows',
	chain: { workload: 'chain', nodes: 3 },
	fanOut: { workload: 'fan-out', nodes: FAN_OUT + 1 },

	async start(lab) {
		const connection = { url: lab.redis.url }
		const producer = new FlowProducer({ connection })
		const queue = new Queue('runs', { connection })
		producer.on('error', () => {})
		queue.on('error', () => {})
		const worker = await spawnProcess({
			entry: 'test/bench/contenders/bullmq.main.ts',
			env: { REDIS_URL: lab.redis.url, CONCURRENCY: String(WORKER_CONCURRENCY) },
			readyLine: /The workers run/,
			deadlineMs: 60_000,
		})
		return {
			watched: {
				databaseUrl: lab.postgres.url,
				metricsPorts: [],
				pids: { redis: [lab.redis.pid], worker: [worker.pid] },
			},
			async start(workload, count) {
				const flow = flows.get(workload)
				if (flow === undefined) throw new Error(`BullMQ has no ${workload} here`)
				await producer.addBulk(Array.from({ length: count }, flow))
			},
			async live() {
				const counts = await queue.getJobCounts(
					'wait',
					'active',
					'waiting-children',
					'prioritized',
					'delayed',
				)
				return Object.values(counts).reduce((sum, count) => sum + count, 0)
			},
			async stop() {
				await worker.kill()
				await Promise.all([producer.close(), queue.close()])
				const redis = new Redis(lab.redis.url)
				redis.on('error', () => {})
				await redis.flushall()
				redis.disconnect()
			},
		}
	},
}
