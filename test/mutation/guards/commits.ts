/** Guards of the commit: the run's lock, its status, its counters, its end. */
import type { Guard } from '../guard.js'

const COMMIT = 'src/db/sql/50_commit.sql'
const SETTLE = 'src/db/sql/20_settle_runs.sql'
const COMMIT_TESTS = 'test/engine/commit.test.ts'

export const commitGuards: readonly Guard[] = [
	{
		name: 'run-lock',
		keeps: 'commits and a cancel of one run do not see each other: a count is lost, a successor starts under a cancelled run',
		edits: [
			{
				file: COMMIT,
				find: 'ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;\n\tv_now := clock_timestamp();',
				replace: 'ORDER BY s.depth, s.run_id;\n\tv_now := clock_timestamp();',
			},
		],
		noticedBy: [
			[COMMIT_TESTS, 'of two commits of one run the later waits, and counts what the earlier has left'],
		],
	},
	{
		name: 'lock-order',
		keeps: 'commits of parents and children and a cancel wait for each other for ever',
		edits: [
			{
				file: COMMIT,
				find: 'ORDER BY s.depth, s.run_id FOR NO KEY UPDATE;\n\tv_now := clock_timestamp();',
				replace:
					'ORDER BY s.depth DESC, s.run_id DESC FOR NO KEY UPDATE;\n\tv_now := clock_timestamp();',
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'a batch of parents and their children never deadlocks with the cancel of a parent',
			],
		],
	},
	{
		name: 'status-recheck',
		keeps: 'a node is finished in a run that has ended',
		edits: [
			{
				file: COMMIT,
				find: "WHERE n.state = 'running' AND n.claim_token = g.token AND s.finished_at IS NULL",
				replace: "WHERE n.state = 'running' AND n.claim_token = g.token",
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'a commit writes nothing to a run that has ended, even if its node still looks as if it ran',
			],
		],
	},
	{
		name: 'fence-before-successors',
		keeps: 'a lost commit starts the successors of its node',
		edits: [
			{
				file: COMMIT,
				find: 'WHERE x.ix = ANY (committed)\n\t\t), fresh AS (\n\t\t\tSELECT DISTINCT ON (a.run_id',
				replace: '), fresh AS (\n\t\t\tSELECT DISTINCT ON (a.run_id',
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'nodes of many runs are committed together, and those whose claim is lost contribute nothing',
			],
		],
	},
	{
		name: 'fence-before-recovery',
		keeps: 'a lost commit of a fallback recovers its node',
		edits: [
			{
				file: COMMIT,
				find: "WHERE x.ix = ANY (committed) AND n.ctid = p.place AND n.state || '' = 'failed'",
				replace: "WHERE n.ctid = p.place AND n.state || '' = 'failed'",
			},
		],
		noticedBy: [[COMMIT_TESTS, 'a lost commit of a fallback recovers nothing']],
	},
	{
		name: 'child-fence',
		keeps: 'a lost commit starts a child run',
		edits: [
			{
				file: COMMIT,
				find: 'AS parent ON g.child_blueprint IS NOT NULL AND g.ix = ANY (committed)',
				replace: 'AS parent ON g.child_blueprint IS NOT NULL',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'a lost commit starts no child run, whatever else is in its batch']],
	},
	{
		name: 'event-fence',
		keeps: 'a lost commit publishes what its node had to tell',
		edits: [
			{
				file: COMMIT,
				find: 'WHERE x.ix = ANY (committed)\n\t\tORDER BY x.ord;\n\t\tGET DIAGNOSTICS',
				replace: 'ORDER BY x.ord;\n\t\tGET DIAGNOSTICS',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'a lost commit publishes no event, whatever else is in its batch']],
	},
	{
		name: 'repeated-commit',
		keeps: 'a commit whose answer was lost counts as a lost claim when it is asked again',
		edits: [
			{
				file: COMMIT,
				find: "WHERE n.claim_token = g.token AND n.state <> 'running' AND n.state <> 'cancelled'",
				replace: 'WHERE false',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'a commit that ended its run is still known when it is repeated']],
	},
	{
		name: 'unknown-subflow',
		keeps: 'a subflow that nobody has registered breaks the whole batch',
		edits: [
			{
				file: COMMIT,
				find: 'WHERE h.child_blueprint IS NOT NULL AND NOT EXISTS (',
				replace: 'WHERE false AND NOT EXISTS (',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'one whose blueprint nobody has registered is refused']],
	},
	{
		name: 'dynamic-node-once',
		keeps: 'two nodes add one under the same id, and one of them is silently not run',
		edits: [{ file: COMMIT, find: 'WHERE added.ix <> added.first_ix', replace: 'WHERE false' }],
		noticedBy: [
			[
				COMMIT_TESTS,
				'of two nodes that add one under the same id, the later is refused, in one batch as in two',
			],
		],
	},
	{
		name: 'live-count',
		keeps: 'a run ends while something of it is live, or never',
		edits: [
			{
				file: COMMIT,
				find: 'SELECT f.run_id, count(*)::int AS live FROM fresh f GROUP BY f.run_id',
				replace: 'SELECT f.run_id, 0 AS live FROM fresh f GROUP BY f.run_id',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'is decided in the commit of its last live node: completed']],
	},
	{
		name: 'failed-count',
		keeps: 'a run with a failed node completes',
		edits: [
			{
				file: COMMIT,
				find: "CASE WHEN f.outcome = 'failed' THEN 1 ELSE 0 END",
				replace: '0',
			},
		],
		noticedBy: [
			[COMMIT_TESTS, 'is failed, with the reason of the first failure, once nothing more can run'],
		],
	},
	{
		name: 'waiting-count',
		keeps: 'a run shows that it waits while it works, or the other way round',
		edits: [
			{
				file: COMMIT,
				find: "CASE WHEN f.outcome = 'waiting' THEN 1 ELSE 0 END",
				replace: '0',
			},
		],
		noticedBy: [
			[COMMIT_TESTS, 'a run awaits while all its live nodes wait, and runs while one of them does not'],
		],
	},
	{
		name: 'ended-run-stays-ended',
		keeps: 'a late change of its counters takes a run back from its end',
		edits: [{ file: SETTLE, find: '\t\tWHERE s.finished_at IS NULL\n', replace: '' }],
		noticedBy: [[COMMIT_TESTS, 'is final: its counters change no more']],
	},
	{
		name: 'paused-stays-paused',
		keeps: 'a commit under a pause sets the run going again',
		edits: [{ file: SETTLE, find: "WHEN c.old_status = 'paused' THEN 'paused'\n", replace: '' }],
		noticedBy: [[COMMIT_TESTS, 'a paused run stays paused while something of it is live']],
	},
	{
		name: 'parent-is-told',
		keeps: 'a parent never learns that its child has ended',
		edits: [
			{
				file: SETTLE,
				find: 'WHERE c.status <> c.old_status\n\t\tRETURNING 1',
				replace: 'WHERE false\n\t\tRETURNING 1',
			},
		],
		noticedBy: [[COMMIT_TESTS, "its end is a job for its parent's node, in the commit that ended it"]],
	},
	{
		name: 'resume-removes-timer',
		keeps: 'the timer of a wait that was resumed goes off all the same',
		edits: [
			{
				file: 'src/db/sql/61_resume_node.sql',
				find: 'DELETE FROM flowcraft_outbox o\n\tWHERE o.run_id = p_run',
				replace: 'DELETE FROM flowcraft_outbox o\n\tWHERE false AND o.run_id = p_run',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'a resume removes the timer of its node in the same write']],
	},
	{
		name: 'resume-once',
		keeps: 'two resumes at once both count',
		edits: [
			{
				file: 'src/db/sql/61_resume_node.sql',
				find: 'FROM flowcraft_statuses s WHERE s.run_id = p_run FOR NO KEY UPDATE',
				replace: 'FROM flowcraft_statuses s WHERE s.run_id = p_run',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'of two resumes at once one wins, and the run counts one']],
	},
	{
		name: 'cancel-removes-messages',
		keeps: 'messages and timers of a cancelled run stay in the outbox',
		edits: [
			{
				file: 'src/db/sql/60_cancel_run.sql',
				find: "DELETE FROM flowcraft_outbox o WHERE o.run_id = ANY (cancelled) AND o.kind <> 'event';",
				replace: '',
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'a cancel of the outermost run cancels its descendants at any depth, and nothing else',
			],
		],
	},
	{
		name: 'cancel-keeps-events',
		keeps: 'a cancel takes back what a node has told the world in its commit',
		edits: [
			{
				file: 'src/db/sql/60_cancel_run.sql',
				find: "o.run_id = ANY (cancelled) AND o.kind <> 'event'",
				replace: 'o.run_id = ANY (cancelled)',
			},
		],
		noticedBy: [
			[
				'test/engine/business-events.test.ts',
				'stays when its run is cancelled after its node has committed',
			],
		],
	},
	{
		name: 'cancel-reaches-descendants',
		keeps: 'children go on when their parent is cancelled',
		edits: [
			{
				file: 'src/db/sql/60_cancel_run.sql',
				find: 'cancelled := flowcraft_lock_descendants(p_run);',
				replace: 'cancelled := ARRAY[p_run];',
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'a cancel of the outermost run cancels its descendants at any depth, and nothing else',
			],
			['test/engine/execution.test.ts', 'of a parent reaches its children'],
		],
	},
	{
		name: 'child-level-triggered',
		keeps: 'repeated and reordered words of a child count twice with its parent',
		edits: [
			{
				file: 'src/db/sql/62_refresh_child.sql',
				find: "v_delta := (v_child.status = 'awaiting')::int - (v_child.known = 'awaiting')::int;",
				replace: "v_delta := CASE v_child.status WHEN 'awaiting' THEN 1 ELSE -1 END;",
			},
		],
		noticedBy: [[COMMIT_TESTS, 'its word that it waits counts once, however often it comes']],
	},
	{
		name: 'pinned-subflows',
		keeps: 'a run changes the version of its subflows while it goes on',
		edits: [
			{
				file: COMMIT,
				find: 'coalesce(s.pins ->> g.child_blueprint, flowcraft_resolve_blueprint(g.child_blueprint, NULL)) AS hash',
				replace: 'flowcraft_resolve_blueprint(g.child_blueprint, NULL) AS hash',
			},
		],
		noticedBy: [
			[
				COMMIT_TESTS,
				'the versions of its subflows are those that were current when the outermost run started, at any depth',
			],
		],
	},
	{
		name: 'batch-split',
		keeps: 'one value that cannot be stored fails every node in its batch',
		edits: [
			{
				file: 'worker/worker/commits.ts',
				find: "if (commits.length === 1 || classifyDatabaseError(error) === 'unavailable')",
				replace: 'if (commits.length > 0)',
			},
		],
		noticedBy: [[COMMIT_TESTS, 'are split when Postgres refuses one of them: only its node is told so']],
	},
	{
		name: 'commit-asked-again',
		keeps: 'a node fails because Postgres was away at its commit',
		edits: [
			{
				file: 'worker/worker/commits.ts',
				find: "if (classifyDatabaseError(answer.error) !== 'unavailable') throw answer.error",
				replace: 'throw answer.error',
			},
		],
		noticedBy: [['test/engine/execution.test.ts', 'asks for a commit again until Postgres is back']],
	},
]
