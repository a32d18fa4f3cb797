import { expect, test } from 'vitest'
import { readNotice } from '../../src/outbox/notice.js'

const TOKEN = '7d1f0a52-8f0f-4f5f-9a53-0f5f5d3a1c11'
const ROW = { id: '7', messageId: TOKEN, runId: 'r', nodeId: 'n', blueprintId: 'b', traceparent: null }
const of = (...rows: unknown[]): string =>
	JSON.stringify({ for: 4711, at: 1_700_000_000_123.4, token: TOKEN, rows })

test('a notice brings outbox rows, and the token under which they were taken', () => {
	expect(readNotice(of(ROW))).toMatchObject({
		for: 4711,
		token: TOKEN,
		rows: [
			{ id: '7', messageId: TOKEN, kind: 'job', key: { runId: 'r', nodeId: 'n' }, reclaimed: false },
		],
	})
})

test.each([
	'',
	'null',
	'{',
	'{}',
	'[1]',
	JSON.stringify([ROW]),
	JSON.stringify({ for: 4711, at: 1, token: 'x', rows: [ROW] }),
	JSON.stringify({ token: TOKEN, rows: [ROW] }),
	of({ ...ROW, id: 7 }),
	of({ ...ROW, id: '99999999999999999999' }),
	of({ ...ROW, messageId: 'm' }),
	of(ROW, {}),
	of(...Array.from({ length: 11 }, () => ROW)),
])('%s brings none', (notice) => {
	expect(readNotice(notice)).toBeUndefined()
})
