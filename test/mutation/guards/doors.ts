/** Guards of what comes in: starts, events, webhooks, requests. */
import type { Guard } from '../guard.js'

const EVENTS = 'src/db/sql/64_send_event.sql'

export const doorGuards: readonly Guard[] = [
	{
		name: 'idempotency-key',
		keeps: 'a start that is repeated starts a second run',
		edits: [
			{
				file: 'src/db/sql/30_start_run.sql',
				find: 'IF v_keyed THEN\n\t\t-- Of two',
				replace: 'IF false THEN\n\t\t-- Of two',
			},
		],
		noticedBy: [
			[
				'test/engine/start.test.ts',
				'of twenty starts with one key at once, one starts a run and all return it',
			],
		],
	},
	{
		name: 'idempotency-body',
		keeps: 'another start under the same key gets the result of the first one',
		edits: [
			{
				file: 'src/db/sql/30_start_run.sql',
				find: "CASE WHEN k.request_hash = g.request_hash THEN 'repeated' ELSE 'conflict' END",
				replace: "'repeated'",
			},
		],
		noticedBy: [
			[
				'test/engine/start.test.ts',
				'of twenty starts with one key and different bodies at once, one starts a run and the others conflict',
			],
		],
	},
	{
		name: 'run-id-once',
		keeps: 'a start under a run id that is taken adds nodes to the other run',
		edits: [
			{
				file: 'src/db/sql/30_start_run.sql',
				find: '\t\tWHERE g.run_id = ANY (v_inserted)\n',
				replace: '',
			},
		],
		noticedBy: [['test/engine/start.test.ts', 's is taken once, also when two come at once']],
	},
	{
		name: 'abandoned-start',
		keeps: 'a start whose caller was told 503 long ago begins a run when Postgres is back',
		edits: [
			{ file: 'functions/database.ts', find: 'if (!isWanted())', replace: 'if (false)' },
			{
				file: 'functions/starter.ts',
				find: 'starts.filter(({ isAbandoned }) => !isAbandoned)',
				replace: 'starts',
			},
		],
		noticedBy: [
			[
				'test/functions/back-pressure.test.ts',
				'who waits for a connection in vain is answered at the deadline, and its statement never runs',
			],
		],
	},
	{
		name: 'registration-keeps-current',
		keeps: 'a worker of the last release that restarts makes its old blueprint current again',
		edits: [
			{
				file: 'src/db/sql/31_register_blueprint.sql',
				find: "\t\toutcome := 'known';",
				replace:
					"\t\toutcome := 'known';\n\t\tUPDATE flowcraft_blueprint_heads SET hash = p_hash WHERE blueprint_id = p_blueprint;",
			},
		],
		noticedBy: [
			[
				'test/functions/blueprints.test.ts',
				'registering a known content does not move what is current',
			],
		],
	},
	{
		name: 'event-lock',
		keeps: 'an event and the wait for it pass each other',
		edits: [
			{
				file: EVENTS,
				find: 'PERFORM flowcraft_lock_events(ARRAY[p_name], ARRAY[p_key], false);',
				replace: '',
			},
		],
		noticedBy: [
			['test/engine/events.test.ts', 'meet when the event is not committed yet as the wait begins'],
		],
	},
	{
		name: 'event-kept',
		keeps: 'an event that comes before its wait is lost',
		edits: [{ file: EVENTS, find: 'ELSIF p_keep_until > v_now THEN', replace: 'ELSIF false THEN' }],
		noticedBy: [
			[
				'test/engine/events.test.ts',
				'that nobody waits for is kept, and ends one later wait, the oldest first',
			],
		],
	},
	{
		name: 'webhook-once',
		keeps: 'a webhook can be used twice',
		edits: [{ file: EVENTS, find: 'IF v_hook.used_at IS NOT NULL THEN', replace: 'IF false THEN' }],
		noticedBy: [
			['test/engine/webhooks.test.ts', 'is taken once: the second one is refused and changes nothing'],
			['test/functions/webhooks.test.ts', 'answers 410 the second time, and once it has expired'],
		],
	},
	{
		name: 'webhook-expiry',
		keeps: 'a webhook can be used for ever',
		edits: [{ file: EVENTS, find: 'ELSIF v_hook.expires_at <= v_now THEN', replace: 'ELSIF false THEN' }],
		noticedBy: [
			[
				'test/engine/webhooks.test.ts',
				'to an expired or an unknown webhook is refused and changes nothing',
			],
		],
	},
	{
		name: 'body-limit',
		keeps: 'a client fills the memory of the server with one request',
		edits: [
			{
				file: 'functions/body.ts',
				find: 'if (size > limitBytes) {',
				replace: 'if (size > Number.MAX_SAFE_INTEGER) {',
			},
		],
		noticedBy: [
			[
				'test/functions/bad-input.test.ts',
				'a body over the limit, whether its length is declared or not',
			],
		],
	},
	{
		name: 'api-key',
		keeps: 'requests without a key are served',
		edits: [
			{
				file: 'functions/endpoint.ts',
				find: "definition.scope === 'open' ? NOBODY",
				replace: 'definition.scope !== undefined ? NOBODY',
			},
		],
		noticedBy: [['test/functions/auth.test.ts', 'needs a key']],
	},
	{
		name: 'scopes',
		keeps: 'a key that may only read starts and cancels runs',
		edits: [
			{
				file: 'functions/endpoint.ts',
				find: 'if (!caller.scopes.has(scope))',
				replace: 'if (scope === undefined)',
			},
		],
		noticedBy: [['test/functions/auth.test.ts', 'a key does what its scopes say, and nothing else']],
	},
	{
		name: 'exposure',
		keeps: 'a server without keys is reachable from elsewhere',
		edits: [
			{
				file: 'functions/config.ts',
				find: "host === '' || isLoopback(host)) return []",
				replace: 'host !== undefined) return []',
			},
		],
		noticedBy: [['test/functions/config.test.ts', 'only with API keys']],
	},
	{
		name: 'database-deadline',
		keeps: 'a request hangs as long as Postgres does',
		edits: [
			{
				file: 'functions/database.ts',
				find: "withDeadline('Postgres', deadlineMs, statement())",
				replace: 'statement()',
			},
			{
				file: 'functions/statement-gate.ts',
				find: "return withDeadline('Postgres', Math.max(deadlineMs - (performance.now() - startedAt), 0), running)",
				replace: 'void startedAt\n\t\treturn running',
			},
		],
		noticedBy: [
			[
				'test/functions/database-down.test.ts',
				'a request that waits for a run ends with 503 when Postgres falls silent meanwhile',
			],
		],
	},
	{
		name: 'statement-queue',
		keeps: 'requests pile up before a slow Postgres without end',
		edits: [
			{
				file: 'functions/statement-gate.ts',
				find: 'if (this.#waiting.size >= maxWaiting) {',
				replace: 'if (this.#waiting.size > 1e9 + maxWaiting) {',
			},
		],
		noticedBy: [
			[
				'test/functions/back-pressure.test.ts',
				'who finds the queue of statements full is refused at once',
			],
		],
	},
	{
		name: 'start-queue',
		keeps: 'starts pile up before a slow Postgres without end',
		edits: [
			{
				file: 'functions/starter.ts',
				find: 'if (underWay >= maxUnderWay)',
				replace: 'if (underWay > 1e9 + maxUnderWay)',
			},
		],
		noticedBy: [
			[
				'test/functions/back-pressure.test.ts',
				'while others have all connections starts wait in a bounded queue',
			],
		],
	},
	{
		name: 'start-batch-patience',
		keeps: 'who waits for a key that somebody holds makes all wait that came at the same time',
		edits: [{ file: 'functions/starter.ts', find: 'BATCH_PATIENCE_MS,', replace: '' }],
		noticedBy: [
			[
				'test/functions/back-pressure.test.ts',
				'a key that somebody holds holds up its own start and no other that comes at the same time',
			],
		],
	},
	{
		name: 'request-bound',
		keeps: 'requests that wait fill the memory of the server',
		edits: [
			{
				file: 'functions/admission.ts',
				find: 'if (underWay >= options.maxRequests) {',
				replace: 'if (underWay > 1e9 + options.maxRequests) {',
			},
		],
		noticedBy: [
			[
				'test/functions/limits.test.ts',
				'requests under way are bounded: the next one is answered 503 at once, health still 200',
			],
		],
	},
	{
		name: 'rate-limit',
		keeps: 'one client takes all there is to have',
		edits: [
			{
				file: 'functions/rate-limit.ts',
				find: 'if (allowed) return\n',
				replace: 'if (tokens >= 0) return\n',
			},
		],
		noticedBy: [
			[
				'test/functions/limits.test.ts',
				'allows so many at once, then one for each that the time brings back, and says when',
			],
			['test/functions/limits.test.ts', 'per caller: each key has its own'],
		],
	},
	{
		name: 'jwt-issuer',
		keeps: "a token of another issuer's is good here",
		edits: [{ file: 'functions/jwt.ts', find: 'issuer: options.issuer,', replace: '' }],
		noticedBy: [['test/functions/jwt.test.ts', 'of another issuer']],
	},
	{
		name: 'jwt-audience',
		keeps: 'a token that was made for another service is good here',
		edits: [{ file: 'functions/jwt.ts', find: 'audience: [...options.audience],', replace: '' }],
		noticedBy: [['test/functions/jwt.test.ts', 'for somebody else']],
	},
	{
		name: 'jwt-algorithms',
		keeps: 'a token is taken under an algorithm that nobody has allowed',
		edits: [
			{
				file: 'functions/jwt.ts',
				find: 'algorithms: [...(options.algorithms ?? DEFAULT_JWT_ALGORITHMS)],',
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/functions/jwt.test.ts',
				'an algorithm that is not on the list is refused, although its key is published',
			],
		],
	},
	{
		name: 'jwt-expiry',
		keeps: 'a token is good for ever',
		edits: [
			{
				file: 'functions/jwt.ts',
				find: "requiredClaims: ['exp', callerClaim],",
				replace: 'requiredClaims: [callerClaim],',
			},
		],
		noticedBy: [['test/functions/jwt.test.ts', 'a token without an end is refused']],
	},
	{
		name: 'migration-lock',
		keeps: 'processes that migrate at once fail',
		edits: [
			{
				file: 'worker/db/migrate.ts',
				find: 'await client.unsafe(`select pg_advisory_lock(${MIGRATION_LOCK})`)',
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/engine/migrate.test.ts',
				'of many processes that migrate at once one does, and all of them find the schema',
			],
		],
	},
]
