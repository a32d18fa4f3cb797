/** Guards of `onCommit`: a node's own SQL stands with its result, or not at all. */
import type { Guard } from '../guard.js'

const COMMIT = 'worker/transaction/commit.ts'
const TESTS = 'test/engine/on-commit.test.ts'

export const transactionGuards: readonly Guard[] = [
	{
		name: 'on-commit-looks-first',
		keeps: 'the statements of a node run whose claim was lost long before',
		edits: [{ file: COMMIT, find: "if (look.status !== 'held') {", replace: 'if (false) {' }],
		noticedBy: [[TESTS, 'does not run at all when the claim is lost already']],
	},
	{
		name: 'on-commit-fence',
		keeps: 'the statements of a node stand although its result does not',
		edits: [
			{
				file: COMMIT,
				find: "if (outcome !== 'committed') {",
				replace: "if (outcome === 'refused') {",
			},
		],
		noticedBy: [
			[
				TESTS,
				'leaves nothing when its run is cancelled while it runs, and holds up neither the cancel nor its siblings',
			],
		],
	},
	{
		name: 'on-commit-same-transaction',
		keeps: 'a result stands by itself after its node has ended the transaction that it was to share',
		edits: [
			{
				file: 'src/commit/commit.ts',
				find: 'case when pg_current_xact_id()::text = $1::text then (',
				replace: 'case when $1::text is not null then (',
			},
		],
		noticedBy: [
			[TESTS, 'that ends its transaction itself fails its attempt, and the result does not stand'],
		],
	},
	{
		name: 'on-commit-first-refusal',
		keeps: 'a node hears that its transaction is aborted, and not why',
		edits: [
			{
				file: 'worker/transaction/connection.ts',
				find: 'else this.failure ??= toError(error)',
				replace: '',
			},
		],
		noticedBy: [
			[
				TESTS,
				'whose refused statement is caught and forgotten fails all the same, with what was refused',
			],
		],
	},
	{
		name: 'on-commit-seal',
		keeps: 'a statement that a callback sends after its end runs in the transaction of another node',
		edits: [{ file: 'worker/transaction/handle.ts', find: 'sealed ??= why', replace: 'void why' }],
		noticedBy: [
			[TESTS, 'waits for statements that it has not awaited, and takes none once it has ended'],
		],
	},
]
