/** Guards of the live stream: every event once, under a number that stays. */
import type { Guard } from '../guard.js'

const STREAM = 'src/db/sql/69_stream.sql'
const WATCH = 'src/run/watch.ts'
const TESTS = 'test/engine/watch.test.ts'

export const streamGuards: readonly Guard[] = [
	{
		name: 'stream-late-commits',
		keeps: 'a claim that commits after a later one was told is never told',
		edits: [
			{
				file: STREAM,
				find: 'n.claimed_xid = ANY (v_under_way)\n\t), begun AS (',
				replace: 'false\n\t), begun AS (',
			},
		],
		noticedBy: [[TESTS, 'is told although later events were told before it']],
	},
	{
		name: 'stream-reach-before-look',
		keeps: 'what commits while somebody looks is never told',
		edits: [
			{
				file: STREAM,
				find: 'transition_id = coalesce(v_transition, v_log.transition_id), seen = v_snapshot',
				replace:
					'transition_id = coalesce(v_transition, v_log.transition_id), seen = (pg_snapshot_xmax(v_snapshot)::text || ' +
					"':' || pg_snapshot_xmax(v_snapshot)::text || ':')::pg_snapshot",
			},
		],
		noticedBy: [[TESTS, 'is told although later events were told before it']],
	},
	{
		name: 'stream-once',
		keeps: 'an event that two looks find is told twice',
		edits: [
			{
				file: STREAM,
				find: 'WHERE NOT EXISTS (SELECT FROM flowcraft_stream_events d WHERE d.run_id = p_run AND d.key = s.key)',
				replace: '',
			},
		],
		noticedBy: [
			[
				TESTS,
				'tells what has happened in the order of cause and effect, and the same to whoever asks again',
			],
		],
	},
	{
		name: 'stream-lock',
		keeps: 'two who look at once give the same numbers to different events',
		edits: [
			{
				file: STREAM,
				find: 'WHERE l.run_id = p_run FOR NO KEY UPDATE;\n\n\t-- 2.',
				replace: 'WHERE l.run_id = p_run;\n\n\t-- 2.',
			},
		],
		noticedBy: [
			[TESTS, 'a look that meets another one under way waits for it, and tells what that one has told'],
		],
	},
	{
		name: 'stream-emit-fence',
		keeps: 'a zombie emits in the name of the worker that has the node now',
		edits: [
			{
				file: STREAM,
				find: "n.state = 'running' AND n.claim_token = x.token",
				replace: "n.state = 'running'",
			},
		],
		noticedBy: [[TESTS, 'is told apart by attempt, and only the holder of the claim emits']],
	},
	{
		name: 'stream-part',
		keeps: 'who comes back in the middle of what was emitted together is told its beginning twice',
		edits: [{ file: WATCH, find: "Number(row['seq']) === seq + 1 ? part : 0", replace: '0' }],
		noticedBy: [
			[
				TESTS,
				'is told after the start of its node, with attempt and number, and goes on within what came together',
			],
		],
	},
	{
		name: 'stream-unknown-event',
		keeps: 'who comes back with a number from elsewhere waits for events that were told long ago',
		edits: [
			{
				file: WATCH,
				find: 'if (position.seq > look.lastSeq) throw unknownEvent()',
				replace: '',
			},
		],
		noticedBy: [[TESTS, 'refuses what is no event of the run, and a run that is not there']],
	},
]
