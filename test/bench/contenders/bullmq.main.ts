/** Workers of BullMQ, as its documentation starts them for jobs that wait more than they compute. */
import { Worker } from 'bullmq'

for (const queue of ['runs', 'steps']) {
	const worker = new Worker(queue, async () => 1, {
		connection: { url: process.env['REDIS_URL'] ?? '' },
		concurrency: Number(process.env['CONCURRENCY']),
		// Its guide for production asks to remove what has completed.
		removeOnComplete: { count: 1_000 },
	})
	worker.on('error', (error) => console.error(error))
	await worker.waitUntilReady()
}
console.log('The workers run')
process.on('SIGTERM', () => process.exit(0))
