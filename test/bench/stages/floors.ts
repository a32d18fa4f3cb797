/** The floors: what the servers do when nothing of ours is in between. */
import { openPublisher } from '../floors/amqp.js'
import { pgbench } from '../floors/pgbench.js'
import type { Stage } from '../session.js'

export const floors: Stage = {
	name: 'floors',
	summary: 'pgbench with three rows a transaction, amqplib with confirms',
	async run(session) {
		await session.quiet()
		const { lab, results, sizes } = session
		for (const rows of ['ours', 'bare'] as const) {
			for (const clients of [1, 32]) {
				const rate = await pgbench(lab, { rows, clients, seconds: sizes.floorSeconds })
				if (rate !== undefined)
					results.add(
						`pgbench, ${clients} clients, ${rows === 'ours' ? 'our' : 'bare'} rows`,
						rate,
						'tx/s',
					)
			}
		}
		const publisher = await openPublisher(lab.rabbitMq.url)
		try {
			results.add('amqplib, confirmed', await publisher.rate(sizes.outboxRows), 'messages/s')
		} finally {
			await publisher.close()
		}
	},
}
