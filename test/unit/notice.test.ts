import { expect, test } from 'vitest'
import { readNotice } from '../../src/outbox/notice.js'

const ROW = { id: '7', messageId: 'm', runId: 'r', nodeId: 'n', blueprintId: 'b', traceparent: null }

test('a notice tells of outbox rows that nobody has taken', () => {
	expect(readNotice(JSON.stringify([ROW]))).toMatchObject([
		{
			id: '7',
			messageId: 'm',
			kind: 'job',
			key: { runId: 'r', nodeId: 'n' },
			reclaimed: false,
			failures: 0,
		},
	])
})

test.each(['', 'null', '{', '{}', '[1]', JSON.stringify([{ ...ROW, id: 7 }]), JSON.stringify([ROW, {}])])(
	'%s tells of none',
	(notice) => {
		expect(readNotice(notice)).toEqual([])
	},
)
