import { describe, expect, test } from 'vitest'
import { createRedactor, DEFAULT_REDACT_KEYS, REDACTED, secretsOf } from '../../src/redaction.js'

const redactor = createRedactor({ keys: ['password', 'api_key', 'accessToken', 'authorization'] })

describe('values under configured names', () => {
	test('are left out at any depth, however the name is written', () => {
		expect(
			redactor.value({
				password: 'x',
				PASSWORD: { whole: 'object' },
				list: [{ apiKey: 1, 'API-KEY': [2], api_key: true, access_token: 'x' }],
				passwords: 'stays',
				note: null,
				count: 7,
			}),
		).toEqual({
			password: REDACTED,
			PASSWORD: REDACTED,
			list: [{ apiKey: REDACTED, 'API-KEY': REDACTED, api_key: REDACTED, access_token: REDACTED }],
			passwords: 'stays',
			note: null,
			count: 7,
		})
	})

	test('that are not there are not invented', () => {
		expect(redactor.value({ password: null, api_key: undefined })).toEqual({
			password: null,
			api_key: undefined,
		})
	})

	test('are left out of errors, with what they carry and what caused them', () => {
		const cause = new Error('password=hunter2 was wrong')
		const error = Object.assign(new Error('It broke', { cause }), { password: 'hunter2', code: 'E1' })
		const shown = JSON.stringify(redactor.value({ error }))
		expect(shown).not.toContain('hunter2')
		expect(shown).toContain('It broke')
		expect(shown).toContain('"code":"E1"')
	})

	test('are left out of JSON text; text without any is handed on as it stands', () => {
		expect(redactor.json('{"a":[{"password":"x"}],"__proto__":1}')).toBe(
			`{"a":[{"password":"${REDACTED}"}],"__proto__":1}`,
		)
		const untouched = '{"2":1, "1":2}'
		expect(redactor.json(untouched)).toBe(untouched)
	})

	test('what contains itself, or is too deep to be looked through, does no harm', () => {
		const circular: Record<string, unknown> = { name: 'x' }
		circular['self'] = circular
		expect(redactor.value(circular)).toEqual({ name: 'x', self: '[circular]' })
		let deep: unknown = { password: 'hunter2' }
		for (let i = 0; i < 100_000; i++) deep = [deep]
		expect(redactor.value(deep)).toBe(REDACTED)
	})
})

test.each([
	['password=hunter2', `password=${REDACTED}`],
	['password: hunter2, user: ada', `password: ${REDACTED}, user: ada`],
	['{"password":"hunter2"}', `{"password":"${REDACTED}"}`],
	[String.raw`{\"password\":\"hunter2\"}`, String.raw`{\"password\":\"${REDACTED}\"}`],
	['Authorization: Bearer hunter2', `Authorization: ${REDACTED}`],
	['GET /x?api-key=hunter2&page=2', `GET /x?api-key=${REDACTED}&page=2`],
	['postgres://ada:hunter2@db:5432/x', `postgres://ada:${REDACTED}@db:5432/x`],
	['amqps://ada:hun%2Fter2@rabbit/vhost', `amqps://ada:${REDACTED}@rabbit/vhost`],
	['redis://:hunter2@redis', `redis://:${REDACTED}@redis`],
	[
		'POST https://flows.example.com/webhooks/hunter2hunter2hunter2',
		`POST https://flows.example.com/webhooks/${REDACTED}`,
	],
	["password == 'open'", "password == 'open'"],
	['the password is wrong', 'the password is wrong'],
	['https://example.com/a@b', 'https://example.com/a@b'],
])('in prose: %s', (text, shown) => {
	expect(redactor.text(text)).toBe(shown)
})

test.each([
	['letters', 'a'.repeat(1_000_000)],
	['slashes', '://'.repeat(300_000)],
	['names', 'password '.repeat(100_000)],
	['spaces', `password${' '.repeat(1_000_000)}`],
	['schemes', 'a://b:'.repeat(150_000)],
	['webhooks', '/webhooks/'.repeat(100_000)],
])('takes its time with a million %s, and no more', (_what, text) => {
	// Quadratic work would take hours here, not seconds.
	const startedAt = performance.now()
	createRedactor({ secrets: ['a-secret-of-mine'] }).text(`${text} a-secret-of-mine`)
	expect(performance.now() - startedAt).toBeLessThan(20_000)
})

test('the secrets of the process are left out wherever they stand', () => {
	const env = {
		DATABASE_URL: 'postgres://app:p%40ss-word-1@db/app',
		RABBITMQ_URL: 'amqp://guest:guest@rabbit',
		REDIS_URL: 'redis://cache:6379',
		API_KEYS: `shop:4f1c9be2a07d4c55:start,ops:sha256=${'ab'.repeat(32)}`,
		WEBHOOK_SECRET: 'w'.repeat(32),
		MODERATION_LLM_API_KEY: 'sk-something',
		PUBLIC_URL: 'https://flows.example.com',
		QUEUE_NAME: 'flowcraft-jobs',
		API_KEY: 'short',
	}
	const secrets = secretsOf(env)
	expect(secrets).toEqual(
		expect.arrayContaining([
			'p%40ss-word-1',
			'p@ss-word-1',
			'4f1c9be2a07d4c55',
			'w'.repeat(32),
			'sk-something',
		]),
	)
	expect(secrets).not.toContain('guest')
	expect(secrets).not.toContain('flowcraft-jobs')
	const all = createRedactor({ keys: [], secrets })
	const line = JSON.stringify(all.value({ message: `failed for ${env.API_KEYS} with p@ss-word-1` }))
	for (const secret of ['4f1c9be2a07d4c55', 'p@ss-word-1']) expect(line).not.toContain(secret)
})

test('the password of the development servers is no secret: their names are the same', () => {
	expect(secretsOf({ DATABASE_URL: 'postgres://flowcraft:flowcraft@127.0.0.1:5432/flowcraft' })).toEqual([])
})

test('names are a matter of the operator; without any, the usual ones', () => {
	expect(createRedactor({ keys: [] }).value({ password: 'x' })).toEqual({ password: 'x' })
	for (const name of DEFAULT_REDACT_KEYS)
		expect(createRedactor().value({ [name]: 'x' })).toEqual({ [name]: REDACTED })
})
