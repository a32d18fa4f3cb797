/** Guards of a worker that goes on with what its commit has made ready. */
import type { Guard } from '../guard.js'

const COMMIT = 'src/db/sql/50_commit.sql'
const TESTS = 'test/engine/continuation.test.ts'

export const continuationGuards: readonly Guard[] = [
	{
		name: 'continuation-lease',
		keeps: 'a worker that counts as dead goes on with nodes which the sweep takes away again at once',
		edits: [{ file: COMMIT, find: 'v_claims := EXISTS (', replace: 'v_claims := true OR EXISTS (' }],
		noticedBy: [
			[
				TESTS,
				'claims nothing for a worker whose lease has passed, that was declared dead or has stopped',
			],
		],
	},
	{
		name: 'continuation-paused-run',
		keeps: 'a worker goes on in a run that was paused',
		edits: [
			{
				file: COMMIT,
				find: "CASE WHEN v_claims AND s.status IN ('running', 'awaiting') THEN x.offered END",
				replace: 'CASE WHEN v_claims THEN x.offered END',
			},
		],
		noticedBy: [[TESTS, 'claims nothing in a paused run']],
	},
	{
		name: 'continuation-paused-join',
		keeps: 'a worker goes on with the join of a run that was paused',
		edits: [
			{
				file: COMMIT,
				find: "CASE WHEN v_claims AND s.status IN ('running', 'awaiting') THEN t.token END",
				replace: 'CASE WHEN v_claims THEN t.token END',
			},
		],
		noticedBy: [[TESTS, 'claims no join in a paused run either']],
	},
	{
		name: 'continuation-fence',
		keeps: 'a lost commit claims a join that others complete, and nobody has it in hand',
		edits: [
			{
				file: COMMIT,
				find: 'WHERE x.ix = ANY (committed)\n\t\t\tUNION ALL\n\t\t\tSELECT n.run_id',
				replace: 'UNION ALL\n\t\t\tSELECT n.run_id',
			},
		],
		noticedBy: [[TESTS, 'that lost its own claim claims nothing of what others of its batch complete']],
	},
	{
		name: 'continuation-emission',
		keeps: 'a successor that needed no message makes a whole backlog look as if it had been passed by',
		edits: [
			{
				file: COMMIT,
				find: 'CASE WHEN a.token IS NULL THEN v_now ELSE v_sent[array_position(committed, a.ix)] END, a.edge,',
				replace: 'v_now, a.edge,',
			},
		],
		noticedBy: [
			[TESTS, 'leaves no message behind that would let a backlog look as if it had been passed by'],
		],
	},
	{
		name: 'continuation-answer-lost',
		keeps: 'a successor stands still that was claimed by a commit whose answer was lost',
		edits: [
			{
				file: 'worker/worker/worker.ts',
				find: 'await giveBack(offeredClaim(nodeCommit))\n',
				replace: '\n',
			},
		],
		noticedBy: [
			[TESTS, 'gives back what a commit has claimed whose answer was lost, and the run goes on'],
		],
	},
]
