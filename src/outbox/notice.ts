/**
 * What a start tells the relay that sleeps (`src/db/sql/15_ring.sql`): its outbox rows, so that they are published before
 * anybody looks for them. A hint, as the notification is.
 */
import { z } from 'zod'
import type { OutboxRow } from './outbox.js'

const noticeSchema = z.array(
	z.object({
		id: z.string(),
		messageId: z.string(),
		runId: z.string(),
		nodeId: z.string(),
		blueprintId: z.string(),
		traceparent: z.string().nullable(),
	}),
)

/** The rows that a notification tells of: none where somebody else has sent it, or where they did not fit. */
export function readNotice(notice: string): OutboxRow[] {
	if (notice === '') return []
	let parsed: unknown
	try {
		parsed = JSON.parse(notice)
	} catch {
		return []
	}
	const rows = noticeSchema.safeParse(parsed)
	if (!rows.success) return []
	return rows.data.map(({ runId, nodeId, ...row }) => ({
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
	}))
}
