/** Guards of the claim, the lease and the worker's right to finish what it holds. */
import type { Guard } from '../guard.js'

const CLAIM = 'src/db/sql/40_claim.sql'
const COMMIT = 'src/db/sql/50_commit.sql'

export const claimGuards: readonly Guard[] = [
	{
		name: 'claim-state',
		keeps: 'a node that runs or has ended is started again by a repeated message',
		edits: [
			{
				file: CLAIM,
				find: "AND n.state || '' = 'ready' AND (n.due_at IS NULL OR n.due_at <= v_now)",
				replace: 'AND (n.due_at IS NULL OR n.due_at <= v_now)',
			},
			{
				file: CLAIM,
				find: "WHERE n.ctid = f.place AND n.state || '' = 'ready'",
				replace: 'WHERE n.ctid = f.place',
			},
		],
		noticedBy: [
			['test/engine/claim.test.ts', 'of many workers that claim one job at once, exactly one gets it'],
			['test/engine/claim.test.ts', 'a node that has ended is not claimed again'],
		],
	},
	{
		name: 'claim-token-once',
		keeps: 'an ask that was long on its way makes a token that has been used up good again',
		edits: [
			{
				file: CLAIM,
				find: '\t\t\t\tAND n.claim_token IS DISTINCT FROM p_tokens[w.ix]\n\t\t\tFOR UPDATE',
				replace: '\t\t\tFOR UPDATE',
			},
		],
		noticedBy: [
			[
				'test/engine/claim.test.ts',
				'a claim that is asked again after its node has been tried under its token does not stand again',
			],
		],
	},
	{
		name: 'claim-due',
		keeps: 'a retry or a timer goes off before its time',
		edits: [
			{
				file: CLAIM,
				find: "AND n.state || '' = 'ready' AND (n.due_at IS NULL OR n.due_at <= v_now)",
				replace: "AND n.state || '' = 'ready'",
			},
		],
		noticedBy: [['test/engine/claim.test.ts', 'a retry is claimed when it is due, and not before']],
	},
	{
		name: 'claim-run-status',
		keeps: 'a node of a paused run starts',
		edits: [
			{
				file: CLAIM,
				find: "WHERE s.status IN ('running', 'awaiting')\n",
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/engine/claim.test.ts',
				'nodes of a paused run are not claimed, neither ready nor waiting ones',
			],
		],
	},
	{
		name: 'claim-skip-locked',
		keeps: 'a claim waits for whoever changes its node, and with it everybody in its batch',
		edits: [{ file: CLAIM, find: 'FOR UPDATE SKIP LOCKED', replace: 'FOR UPDATE' }],
		noticedBy: [
			['test/engine/claim.test.ts', 'a claim does not wait behind whoever changes the node right now'],
		],
	},
	{
		name: 'claim-lease',
		keeps: 'a worker that counts as dead starts nodes which the sweep takes away again at once',
		edits: [
			{
				file: CLAIM,
				find: 'IF NOT EXISTS (\n\t\tSELECT FROM flowcraft_workers',
				replace: 'IF false AND NOT EXISTS (\n\t\tSELECT FROM flowcraft_workers',
			},
		],
		noticedBy: [
			[
				'test/engine/claim.test.ts',
				'a worker that is unknown, silent for longer than its lease, declared dead or stopped claims nothing',
			],
		],
	},
	{
		name: 'claim-child-ended',
		keeps: 'a parent goes on before its child has ended',
		edits: [
			{
				file: CLAIM,
				find: "(n.state = 'child' AND child.finished_at IS NOT NULL)",
				replace: "(n.state = 'child')",
			},
		],
		noticedBy: [
			['test/engine/claim.test.ts', 'a node is woken by its child only once the child has ended'],
		],
	},
	{
		name: 'claim-locks-runs-first',
		keeps: 'a claim that wakes a node and a cancel wait for each other for ever',
		edits: [
			{
				file: CLAIM,
				find: 'PERFORM FROM flowcraft_statuses s WHERE s.run_id = ANY (v_locked) ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;',
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/engine/claim.test.ts',
				'a claim that has to wait for a run holds none of its nodes meanwhile, so that it never deadlocks with a cancel',
			],
		],
	},
	{
		name: 'claim-token',
		keeps: 'a zombie finishes a node that another worker runs by now',
		edits: [
			{
				file: COMMIT,
				find: "WHERE n.state = 'running' AND n.claim_token = g.token AND s.finished_at IS NULL",
				replace: "WHERE n.state = 'running' AND s.finished_at IS NULL",
			},
			{
				file: COMMIT,
				find: "WHERE n.ctid = g.place AND n.state || '' = 'running' AND n.claim_token = g.token",
				replace: "WHERE n.ctid = g.place AND n.state || '' = 'running'",
			},
		],
		noticedBy: [
			['test/engine/commit.test.ts', 'commit writes nothing while another worker runs the node'],
		],
	},
	{
		name: 'claim-token-once-more',
		keeps: 'a zombie finishes a node that was swept and claimed anew while its commit waited',
		// Where Postgres compares the place again after it has waited, that alone suffices.
		edits: [
			{
				file: COMMIT,
				find: "WHERE n.ctid = g.place AND n.state || '' = 'running' AND n.claim_token = g.token",
				replace:
					"WHERE n.run_id = g.run_id AND n.node_id = g.node_id AND n.generation = g.generation AND n.recovers = g.recovers AND n.state = 'running'",
			},
		],
		noticedBy: [
			[
				'test/engine/commit.test.ts',
				'a commit that waited for a sweep, after which another worker took the node, writes nothing',
			],
		],
	},
	{
		name: 'release-token',
		keeps: 'a worker gives back what is not its own any more',
		edits: [
			{
				file: COMMIT,
				find: "n.ctid = p.place AND n.state || '' = 'running' AND n.claim_token = g.token",
				replace: "n.ctid = p.place AND n.state || '' = 'running'",
			},
		],
		noticedBy: [['test/engine/claim.test.ts', 'nothing is given back under a claim that was lost']],
	},
	{
		name: 'step-fence',
		keeps: 'a zombie saves a step in the name of the worker that has the node now',
		edits: [
			{
				file: 'src/db/sql/67_save_step.sql',
				find: "AND n.state = 'running' AND n.claim_token = p_token",
				replace: "AND n.state = 'running'",
			},
		],
		noticedBy: [
			['test/engine/claim.test.ts', 'a step is saved under the claim that stands, and under no other'],
		],
	},
	{
		name: 'heartbeat-dead-stays-dead',
		keeps: 'a late heartbeat brings a worker back whose nodes others have by now',
		edits: [
			{
				file: 'src/claim/worker-registry.ts',
				find: 'and own.dead_at is null and own.stopped_at is null',
				replace: 'and own.stopped_at is null',
			},
		],
		noticedBy: [
			[
				'test/engine/sweep.test.ts',
				'a worker that was declared dead stays dead, however late its heartbeat',
			],
		],
	},
	{
		name: 'heartbeat-thread',
		keeps: 'a node that keeps the CPU busy makes its worker look dead',
		edits: [
			{
				file: 'worker/worker/heartbeat-thread.js',
				find: 'setInterval(() => void beat(), everyMs)',
				replace: "parentPort?.on('message', () => void beat())",
			},
			{
				file: 'worker/worker/heartbeat.ts',
				find: '\tlet ended = false\n',
				replace:
					"\tsetInterval(() => thread.postMessage('beat'), data.leaseMs / 3).unref()\n\tlet ended = false\n",
			},
		],
		noticedBy: [['test/engine/execution.test.ts', 'goes on beating while a node keeps the CPU busy']],
	},
]
