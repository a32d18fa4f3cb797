/** Recorded events, given to the deployed handler. */
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { readFile } from 'node:fs/promises'
import { pathToFileURL } from 'node:url'
import { bundleHost } from '../../../functions/hosts/bundle.js'
import type { HttpEvent, HttpResult, LambdaContext } from '../../../functions/hosts/lambda-events.js'
import { freshFolder } from '../../support/cleanup.js'
import { startApi, type TestApi } from '../api.js'

const SECRET = 'lambda-0123456789abcdef'
/** What the handler reads when it is loaded. */
const VARIABLES = ['DATABASE_URL', 'API_KEYS', 'RATE_LIMIT_PER_ADDRESS']

let api: TestApi
let handler: (event: HttpEvent, context: LambdaContext) => Promise<HttpResult>
let apiGateway: HttpEvent
let functionUrl: HttpEvent

const recorded = async (name: string): Promise<HttpEvent> =>
	JSON.parse(await readFile(new URL(`events/${name}.json`, import.meta.url), 'utf8'))

beforeAll(async () => {
	api = await startApi()
	Object.assign(process.env, {
		DATABASE_URL: api.url,
		API_KEYS: `all:${SECRET}`,
		RATE_LIMIT_PER_ADDRESS: '200/h',
	})
	const { file } = await bundleHost('aws-lambda', freshFolder('lambda'))
	;({ handler } = await import(pathToFileURL(file).href))
	const withKey = (event: HttpEvent): HttpEvent => ({
		...event,
		headers: { ...event.headers, 'x-api-key': SECRET },
	})
	apiGateway = withKey(await recorded('api-gateway'))
	functionUrl = withKey(await recorded('function-url'))
})
afterAll(async () => {
	for (const name of VARIABLES) delete process.env[name]
	await api.stop()
})

const invoke = (event: HttpEvent, remainingMs = 75_000): Promise<HttpResult> =>
	handler(event, { getRemainingTimeInMillis: () => remainingMs })
const bodyOf = (result: HttpResult): any => JSON.parse(result.body)

test('a function URL’s event, its body in base64, starts a run', async () => {
	const result = await invoke(functionUrl)
	expect(result).toMatchObject({ statusCode: 202, isBase64Encoded: false })
	const { runId } = bodyOf(result)
	expect(result.headers).toMatchObject({ 'content-type': 'application/json', location: `/runs/${runId}` })
})

test('an event of a named stage of API Gateway is routed by what follows the stage', async () => {
	const result = await invoke(apiGateway)
	expect([result.statusCode, bodyOf(result)]).toEqual([200, { runs: [] }])
	const stageAlone = await invoke({ ...apiGateway, rawPath: '/prod' })
	expect(bodyOf(stageAlone).detail).toContain('There is no / here')
	// Of the default stage, nothing is cut off.
	const { requestContext } = apiGateway
	const unnamed = { ...apiGateway, requestContext: { ...requestContext, stage: '$default' } }
	expect((await invoke(unnamed)).statusCode).toBe(404)
})

test('a path may come decoded', async () => {
	const { body: _body, ...withoutBody } = functionUrl
	const decoded = await invoke({ ...withoutBody, rawPath: '/events/größer als 5? #1' })
	expect([decoded.statusCode, decoded.body]).toEqual([202, expect.any(String)])
	const [row] = await api.rows("select name from flowcraft_kept_events where name like 'gr%'")
	expect(row).toEqual({ name: 'größer als 5? #1' })
})

describe('a request that waits', () => {
	test('is answered before the function’s time is up, with the run as it is', async () => {
		const { runId } = bodyOf(await invoke(functionUrl))
		const { body: _body, requestContext, ...rest } = functionUrl
		const waiting = {
			...rest,
			rawPath: `/runs/${runId}`,
			rawQueryString: 'wait=60s',
			requestContext: { ...requestContext, http: { ...requestContext.http, method: 'GET' } },
		}
		const startedAt = performance.now()
		const result = await invoke(waiting, 2_000)
		expect([result.statusCode, bodyOf(result).status]).toEqual([200, 'running'])
		expect(performance.now() - startedAt).toBeLessThan(30_000)
	})

	test('is answered before API Gateway gives up, however long the function may take', async () => {
		const timeout = vi.spyOn(AbortSignal, 'timeout')
		onTestFinished(() => timeout.mockRestore())
		await invoke(apiGateway, 900_000)
		expect(timeout).toHaveBeenLastCalledWith(28_500)
		await invoke(apiGateway, 10_000)
		expect(timeout).toHaveBeenLastCalledWith(8_500)
		await invoke(functionUrl, 900_000)
		expect(timeout).toHaveBeenLastCalledWith(898_500)
	})
})

test('limits per address count the address that AWS tells', async () => {
	const from = (sourceIp: string): HttpEvent => ({
		...apiGateway,
		requestContext: {
			...apiGateway.requestContext,
			http: { ...apiGateway.requestContext.http, sourceIp },
		},
	})
	let limited = 0
	for (let i = 0; i < 210; i++) if ((await invoke(from('198.51.100.7'))).statusCode === 429) limited += 1
	expect(limited).toBeGreaterThan(0)
	expect((await invoke(from('198.51.100.8'))).statusCode).toBe(200)
})
