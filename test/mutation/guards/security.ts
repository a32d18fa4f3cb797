/** Guards of the functions: what they run at once, what they accept, and what nobody gets to read. */
import type { Guard } from '../guard.js'

export const securityGuards: readonly Guard[] = [
	{
		name: 'statement-slots',
		keeps: 'the driver queues what nobody waits for any more, and runs it later',
		edits: [
			{ file: 'functions/statement-gate.ts', find: 'if (this.#free > 0) {', replace: 'if (true) {' },
		],
		noticedBy: [
			[
				'test/functions/back-pressure.test.ts',
				'a thousand requests that come in while Postgres is held leave nothing behind',
			],
		],
	},
	{
		name: 'unknown-fields',
		keeps: 'a misspelt field of a start is ignored without a word',
		edits: [
			{
				file: 'functions/routes/runs/start.ts',
				find: '.strictObject({\n\t\t\t\tblueprint',
				replace: '.object({\n\t\t\t\tblueprint',
			},
		],
		noticedBy: [['test/functions/bad-input.test.ts', 'a run id of its own']],
	},
	{
		name: 'history-redaction',
		keeps: 'the history of a run shows passwords that a node has returned',
		edits: [
			{
				file: 'functions/routes/runs/history.ts',
				find: 'redactor.json(decodes ? (asJson(codec, output) ?? output) : output)',
				replace: '(decodes ? (asJson(codec, output) ?? output) : output)',
			},
		],
		noticedBy: [
			[
				'test/functions/redaction.test.ts',
				'outputs in the history have no values under these names, and no token of a webhook',
			],
		],
	},
	{
		name: 'log-redaction',
		keeps: 'a log shows the password in the URL that could not be reached',
		edits: [
			{
				file: 'functions/logger.ts',
				find: 'redactor.value(more ?? {}) as object',
				replace: '(more ?? {}) as object',
			},
		],
		noticedBy: [
			[
				'test/functions/redaction.test.ts',
				'a log has none, in fields, in errors and in what caused them',
			],
		],
	},
]
