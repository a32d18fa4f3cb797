/** Guards of joins, gathers and loops. */
import type { Guard } from '../guard.js'

const COMMIT = 'src/db/sql/50_commit.sql'
const JOIN_TESTS = 'test/engine/joins.test.ts'

export const joinGuards: readonly Guard[] = [
	{
		name: 'arrival-gate',
		keeps: 'an arrival that is repeated counts twice, and the join fires too early',
		edits: [
			{
				file: COMMIT,
				find: 'FROM given g\n\t\t\tWHERE NOT EXISTS (',
				replace: 'FROM given g\n\t\t\tWHERE true OR NOT EXISTS (',
			},
			{
				file: COMMIT,
				find: 'SELECT f.run_id, f.node_id, f.generation, f.source, f.taken FROM fresh f\n',
				replace:
					'SELECT f.run_id, f.node_id, f.generation, f.source, f.taken FROM fresh f ON CONFLICT DO NOTHING\n',
			},
		],
		noticedBy: [
			[JOIN_TESTS, 'an arrival that stands already does not count, even from a claim of its own'],
		],
	},
	{
		name: 'arrival-fence',
		keeps: 'a source arrives whose claim was lost',
		edits: [
			{
				file: COMMIT,
				find: 'WHERE x.ix = ANY (committed)\n\t\t), fresh AS (\n\t\t\tSELECT DISTINCT ON (g.run_id',
				replace: '), fresh AS (\n\t\t\tSELECT DISTINCT ON (g.run_id',
			},
		],
		noticedBy: [
			[JOIN_TESTS, 'a source whose claim was lost does not arrive, whatever else is in its batch'],
		],
	},
	{
		name: 'join-complete',
		keeps: 'a join fires before everybody has arrived',
		edits: [
			{
				file: COMMIT,
				find: 'AND n.arrived >= n.expected AND n.taken > 0',
				replace: 'AND n.taken > 0',
			},
		],
		noticedBy: [
			[JOIN_TESTS, 'a join does not fire before everybody has arrived, however many edges were taken'],
		],
	},
	{
		name: 'join-taken',
		keeps: 'a join fires although nobody took an edge to it',
		edits: [
			{
				file: COMMIT,
				find: 'AND n.arrived >= n.expected AND n.taken > 0',
				replace: 'AND n.arrived >= n.expected',
			},
		],
		noticedBy: [
			[JOIN_TESTS, 'by a taken edge: the join fires if there is one, with the input of the last'],
		],
	},
	{
		name: 'join-once',
		keeps: 'a join that has run runs again',
		edits: [
			{
				file: COMMIT,
				find: "AND n.state || '' = 'pending' AND n.arrived >= n.expected",
				replace: 'AND n.arrived >= n.expected',
			},
		],
		noticedBy: [[JOIN_TESTS, 'a join that has run does not run again, whoever arrives once more']],
	},
	{
		name: 'any-join-once',
		keeps: 'an any-join runs for each of its sources',
		edits: [
			{
				file: COMMIT,
				find: 'FROM asked a\n\t\t\tWHERE NOT EXISTS (',
				replace: 'FROM asked a\n\t\t\tWHERE true OR NOT EXISTS (',
			},
			{
				file: COMMIT,
				find: 'FROM fresh f\n\t\t), posted AS (',
				replace:
					"FROM fresh f ON CONFLICT (run_id, node_id, generation, recovers) DO UPDATE SET state = 'ready'\n\t\t), posted AS (",
			},
		],
		noticedBy: [[JOIN_TESTS, 'an any-join that has run is not run again by those who come later']],
	},
	{
		name: 'gather-raise',
		keeps: 'a gather fires without the nodes that were added to it',
		edits: [
			{ file: COMMIT, find: 'expected = n.expected + (', replace: 'expected = n.expected + 0 * (' },
		],
		noticedBy: [
			[
				JOIN_TESTS,
				'a join that a node makes wait for more, while others have arrived, does not fire without it',
			],
		],
	},
	{
		name: 'gather-has-run',
		keeps: 'nodes are added to a gather that has run, and nobody collects them',
		edits: [
			{
				file: COMMIT,
				find: "WHERE n.state <> 'pending' AND (n.node_id <> h.node_id OR n.generation <> h.generation)",
				replace: 'WHERE false',
			},
		],
		noticedBy: [['test/engine/loops.test.ts', 'to a gather that has run already fails']],
	},
	{
		name: 'generation-rises',
		keeps: 'a loop turns in its first generation for ever, where each node has run already',
		edits: [
			{
				file: 'src/plan/turns.ts',
				find: '(turns[depth - 1] ?? 0) + 1',
				replace: '(turns[depth - 1] ?? 0)',
			},
		],
		noticedBy: [
			['test/unit/blueprint/loops.test.ts', 'turns on the edge back into its entry, and on no other'],
		],
	},
	{
		name: 'outside-holds-for-all-turns',
		keeps: 'a join in a loop waits at its second turn for somebody outside who arrives only once',
		edits: [
			{
				file: COMMIT,
				find: 'IF cardinality(p_held_of) > 0 OR EXISTS (SELECT FROM unnest(p_arr_holds) AS h WHERE h IS NOT NULL) THEN',
				replace: 'IF false THEN',
			},
		],
		noticedBy: [
			[
				'test/engine/loops.test.ts',
				'with a join in its body that somebody outside feeds joins at each turn',
			],
		],
	},
	{
		name: 'leaving-a-loop',
		keeps: 'an edge out of a loop that is not taken arrives at the join behind it, and a later turn that takes it comes too late',
		edits: [
			{
				file: 'src/plan/plan.ts',
				find: 'if (edge === undefined && leavesLoop(graph, source, target)) continue',
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/unit/plan/plan.test.ts',
				'behind a loop hears nothing from an edge that is not taken: a later turn may take it',
			],
		],
	},
]
