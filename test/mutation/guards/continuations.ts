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
				find: 'CASE WHEN f.token IS NULL THEN v_now ELSE v_sent[array_position(committed, f.ix)] END, f.edge,',
				replace: 'v_now, f.edge,',
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
				file: 'worker/worker/node-runner.ts',
				find: "if (outcome === 'repeated' || signal.aborted",
				replace: 'if (signal.aborted',
			},
		],
		noticedBy: [
			[TESTS, 'gives back what a commit has claimed whose answer was lost, and the run goes on'],
		],
	},
	{
		name: 'continuation-slots',
		keeps: 'a worker goes on with more nodes than it has slots',
		edits: [
			{
				file: 'worker/worker/slots.ts',
				find: 'Math.max(Math.min(most, concurrency - this.#taken), 0)',
				replace: 'Math.max(most, 0)',
			},
		],
		noticedBy: [[TESTS, 'goes on with what follows in its free slots, and never with more']],
	},
	{
		name: 'continuation-share',
		keeps: 'one worker goes on with a whole fan-out while the others have nothing to do',
		edits: [
			{
				file: 'worker/worker/continuation.ts',
				find: '(workers === 1 ? successors : 1)',
				replace: 'successors * Math.sign(workers)',
			},
		],
		noticedBy: [[TESTS, 'goes on with one node only while there are other workers']],
	},
	{
		name: 'continuation-after-abort',
		keeps: 'nodes begin that a commit has claimed during which the run was cancelled, or the worker stopped',
		edits: [
			{
				file: 'worker/worker/node-runner.ts',
				find: "if (outcome === 'repeated' || signal.aborted || self.isStopping) {",
				replace: "if (outcome === 'repeated') {",
			},
		],
		noticedBy: [
			[TESTS, 'begins nothing that was claimed by a commit during which its run was cancelled'],
			[TESTS, 'begins nothing that was claimed by a commit during which it was stopped'],
		],
	},
	{
		name: 'continuation-saturated',
		keeps: 'a slot never comes free for others once their deliveries have gone back',
		edits: [
			{
				file: 'worker/worker/slots.ts',
				find: 'return this.#waiting.length > 0 || this.#isPaused',
				replace: 'return this.#waiting.length > 0',
			},
		],
		noticedBy: [[TESTS, 'lets others have its slot even when their deliveries have gone back meanwhile']],
	},
	{
		name: 'continuation-cancelled-in-hand',
		keeps: 'nodes begin that were in hand when their run was cancelled',
		edits: [
			{
				file: 'worker/worker/node-runner.ts',
				find: '\t\t\tif (turn !== undefined) await turn\n',
				replace: '',
			},
			{
				file: 'worker/worker/node-runner.ts',
				find: '\t\tlet node: ClaimedNode | undefined = first\n',
				replace: '\t\tawait turn\n\t\tlet node: ClaimedNode | undefined = first\n',
			},
		],
		noticedBy: [[TESTS, 'begins nothing more of a run that is cancelled while it begins']],
	},
]
