import { setTimeout as delay } from 'node:timers/promises'
import { query } from '../../../src/db/query.js'
import { openPublisher } from '../floors/amqp.js'
import { metricsOf } from '../metrics.js'
import type { Stage } from '../session.js'

const PUBLISHED = 'flowcraft_outbox_published_total'
/** Telling its metrics costs a relay a millisecond. */
const LOOK_EVERY_MS = 50

/** An outbox full of rows that appear in one commit, until the last one is confirmed and deleted. */
export const relay: Stage = {
	name: 'relay',
	summary: 'how fast a relay drains an outbox, beside amqplib with as many messages',
	async run(session) {
		await session.quiet()
		const { lab, results, sizes } = session
		const publisher = await openPublisher(lab.rabbitMq.url)
		try {
			results.add('amqplib, as many messages', await publisher.rate(sizes.outboxRows), 'messages/s')
		} finally {
			await publisher.close()
		}

		const system = await session.startSystem({ workers: 1 })
		try {
			// A relay alone from here on; the messages stay in their queue.
			await Promise.all(system.workers.map((worker) => worker.stop()))
			await query(
				system.database.sql,
				`insert into flowcraft_outbox (run_id, node_id, blueprint_id)
				select gen_random_uuid()::text, 'n' || i, 'chain-3' from generate_series(1, ${sizes.outboxRows}) i`,
			)
			const [relayPort] = system.watched.metricsPorts
			const published = async (): Promise<number> =>
				(await metricsOf(relayPort ?? 0)).get(PUBLISHED) ?? 0
			const begin = performance.now()
			// The look at a table full of dead rows is dear: not before the relay has confirmed all.
			while ((await published()) < sizes.outboxRows) await delay(LOOK_EVERY_MS)
			for (;;) {
				const [row] = await query<{ left: boolean }>(
					system.database.sql,
					'select exists (select from flowcraft_outbox) as left',
				)
				if (row?.left !== true) break
				await delay(5)
			}
			results.add('relay drain', sizes.outboxRows / ((performance.now() - begin) / 1_000), 'messages/s')
		} finally {
			await system.stop()
		}
	},
}
