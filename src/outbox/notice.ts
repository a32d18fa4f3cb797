/**
 * What a start tells the relay that sleeps (`src/db/sql/30_start_run.sql`): its outbox rows, which were taken for it, so that
 * they need not be looked for. Whoever may connect to the database may notify: what a notice says can waste a message, and
 * nothing else, since rows are settled by the token under which they were taken.
 */
import { z } from 'zod'
import type { OutboxRow } from './outbox.js'

/** Rows that are a relay's under this token, for a second. */
export interface Notice {
	/** The session by which it sleeps. */
	readonly for: number
	/** When they were taken, by the clock of Postgres, in ms. */
	readonly at: number
	readonly token: string
	readonly rows: readonly OutboxRow[]
}

const noticeSchema = z.object({
	for: z.int(),
	at: z.number(),
	token: z.uuid(),
	rows: z
		.array(
			z.object({
				id: z.string().regex(/^\d{1,18}$/),
				messageId: z.uuid(),
				runId: z.string(),
				nodeId: z.string(),
				blueprintId: z.string(),
				traceparent: z.string().nullable(),
			}),
		)
		.max(10),
})

/** Undefined: only that there is something to do. */
export function readNotice(text: string): Notice | undefined {
	if (text === '') return undefined
	let parsed: unknown
	try {
		parsed = JSON.parse(text)
	} catch {
		return undefined
	}
	const notice = noticeSchema.safeParse(parsed)
	if (!notice.success) return undefined
	const { rows, ...rest } = notice.data
	return {
		...rest,
		rows: rows.map(({ runId, nodeId, ...row }) => ({
			...row,
			kind: 'job',
			key: { runId, nodeId, generation: '', recovers: '' },
			queue: null,
			priority: null,
			exchange: null,
			routingKey: null,
			payload: null,
			headers: null,
			failures: 0,
			reclaimed: false,
			nodeState: null,
		})),
	}
}
