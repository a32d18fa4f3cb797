/** `npm run client` and `npm run demo` as processes of their own, against a server in this one that can be made to fail. */
import { FlowRuntime } from 'flowcraft'
import { spawn } from 'node:child_process'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { parseDuration } from '../../../worker/command-line.js'
import { compiledFile } from '../../support/compiled.js'
import { samplePosts } from '../../../worker/workflows/content-moderation/sample-posts.js'
import { blueprints, registry } from '../../../worker/workflows/index.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const startSchema = z.object({
	blueprint: z.string(),
	input: z.record(z.string(), z.unknown()),
	tags: z.array(z.string()).optional(),
})
const ownRefusal = { title: 'Unauthorized', detail: 'unknown API key' }

/** Speaks the part of the HTTP contract that the clients use. Runs in process, and keeps its runs when it restarts. */
class StubServer {
	readonly runs = new Map<string, { key: string; answer: Record<string, unknown> }>()
	readonly requests: {
		method: string | undefined
		url: string | undefined
		authorization: string | undefined
	}[] = []
	/** Called before each request; true if it has dealt with it. */
	interfere: (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean> = () =>
		false
	/** What a run answers instead of its own result. */
	endAs: Record<string, unknown> | undefined
	port = 0
	private server: Server | undefined

	get url(): string {
		return `http://127.0.0.1:${this.port}`
	}

	async open(): Promise<void> {
		const server = createServer((request, response) => void this.handle(request, response))
		await new Promise<void>((resolve) => server.listen(this.port, '127.0.0.1', resolve))
		const address = server.address()
		if (typeof address === 'object' && address) this.port = address.port
		this.server = server
	}

	/** Drops every connection in the middle of whatever it was doing. */
	async close(): Promise<void> {
		const server = this.server
		this.server = undefined
		if (!server) return
		const closed = new Promise((resolve) => server.close(resolve))
		server.closeAllConnections()
		await closed
	}

	private async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
		const { method, url, headers } = request
		this.requests.push({ method, url, authorization: headers.authorization })
		let body = ''
		for await (const chunk of request) body += chunk
		if (await this.interfere(request, response)) return
		if (method === 'POST' && url === '/runs') {
			const runId = await this.start(
				String(headers['idempotency-key']),
				startSchema.parse(JSON.parse(body)),
			)
			return send(response, 202, { runId, status: 'running' })
		}
		const run = this.runs.get(/^\/runs\/([^?]+)\?wait=20s$/.exec(url ?? '')?.[1] ?? '')
		return run
			? send(response, 200, run.answer)
			: send(response, 404, { title: 'Not found', detail: 'no such run' })
	}

	private async start(key: string, { blueprint: id, input }: z.infer<typeof startSchema>): Promise<string> {
		for (const [runId, run] of this.runs) if (run.key === key) return runId
		const runId = `run-${this.runs.size + 1}`
		const run = { key, answer: { runId, status: 'running' } as Record<string, unknown> }
		this.runs.set(runId, run)
		const blueprint = blueprints[id]
		if (!blueprint) throw new Error(`no blueprint ${id}`)
		const { status, context } = await new FlowRuntime({ blueprints, registry }).run(blueprint, input)
		run.answer = { runId, status, result: { context, status }, ...this.endAs }
		return runId
	}
}

function send(response: ServerResponse, status: number, body: unknown): void {
	response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

let server: StubServer

beforeEach(async () => {
	server = new StubServer()
	await server.open()
})

afterEach(() => server.close())

interface Ended {
	code: number | null
	stdout: string
	stderr: string
}

async function run(
	script: 'client' | 'demo',
	flags: readonly string[],
	env: Record<string, string> = {},
	interruptWhen?: (output: string) => boolean,
): Promise<Ended> {
	const { PATH = '' } = process.env
	const child = spawn(process.execPath, [await compiledFile(`worker/${script}.ts`), ...flags], {
		cwd: root,
		env: { PATH, FLOWCRAFT_URL: server.url, ...env },
	})
	const ended: Ended = { code: null, stdout: '', stderr: '' }
	let interrupted = false
	const collect = (stream: 'stdout' | 'stderr') => (chunk: Buffer) => {
		ended[stream] += chunk.toString()
		if (interruptWhen?.(ended.stdout + ended.stderr) && !interrupted) interrupted = child.kill('SIGINT')
	}
	child.stdout.on('data', collect('stdout'))
	child.stderr.on('data', collect('stderr'))
	return new Promise((resolve, reject) => {
		child.on('error', reject)
		child.on('close', (code) => resolve({ ...ended, code }))
	})
}

const client = (...flags: string[]) => run('client', ['--blueprint', 'content-moderation', ...flags])

describe('the client', { timeout: 30_000 }, () => {
	it('prints COMPLETED and the result, and exits with 0', async () => {
		const { code, stdout, stderr } = await client(
			'--input',
			'{"userId": 7, "userPost": "Mail me at jane@example.com"}',
		)
		expect(stderr).toContain('Started run run-1')
		expect(code).toBe(0)
		const [status, ...json] = stdout.split('\n')
		expect(status).toBe('COMPLETED')
		const { context } = z
			.object({ context: z.record(z.string(), z.unknown()) })
			.parse(JSON.parse(json.join('\n')))
		expect(context.moderation_result).toMatchObject({
			verdict: 'redacted',
			redactedPost: 'Mail me at [email]',
		})
		expect(Object.keys(context).filter((key) => key.startsWith('_'))).toEqual([])
	})

	it('prints all that the server says, and nothing else, with --json', async () => {
		const { stdout } = await client('--json', '--input', '{"userId": 7, "userPost": "Hello"}')
		expect(JSON.parse(stdout)).toEqual(server.runs.get('run-1')?.answer)
	})

	it('prints FAILED with every error, and exits with 1', async () => {
		server.endAs = {
			status: 'failed',
			reason: 'a node failed',
			errors: [{ nodeId: 'check_for_pii', message: 'out of paper', attempt: 3 }],
		}
		const { code, stdout } = await client('--input', '{"userPost": ""}')
		expect(stdout).toMatch(/^FAILED: a node failed\n {2}check_for_pii: out of paper\n/)
		expect(code).toBe(1)
	})

	it('prints CANCELLED, and exits with 2', async () => {
		server.endAs = { status: 'cancelled' }
		const { code, stdout } = await client('--input', '{"userPost": ""}')
		expect(stdout).toMatch(/^CANCELLED\n/)
		expect(code).toBe(2)
	})

	it('gives up after --timeout with the run id, and exits with 3; the run can be waited for again', async () => {
		server.endAs = { status: 'awaiting', awaiting: [{ nodeId: 'approval', reason: 'wait' }] }
		const first = await client('--input', '{"userPost": ""}', '--timeout', '1500ms')
		expect(first).toMatchObject({ code: 3, stdout: '' })
		expect(first.stderr).toContain('The run is awaiting: approval (wait)')
		expect(first.stderr).toContain('Run run-1 has not ended within 1500ms')

		server.runs.set('run-1', { key: '', answer: { runId: 'run-1', status: 'completed' } })
		expect(await run('client', ['--run', 'run-1'])).toMatchObject({ code: 0, stdout: 'COMPLETED\n' })
	})

	it('leaves the run alone on ^C and says which one it is', async () => {
		server.endAs = { status: 'running' }
		const { code, stderr } = await run(
			'client',
			['-b', 'content-moderation', '-i', '{"userPost": ""}'],
			{},
			(output) => output.includes('Started run'),
		)
		expect(code).toBe(130)
		expect(stderr).toContain('Run run-1 goes on')
		expect(server.requests.every(({ method, url }) => method === 'GET' || url === '/runs')).toBe(true)
	})

	it('sends the API key, and passes on why the server refuses', async () => {
		server.interfere = (_, response) => {
			send(response, 401, ownRefusal)
			return true
		}
		const { code, stderr } = await run('client', ['-b', 'content-moderation'], { API_KEY: 'k-1' })
		expect(server.requests).toMatchObject([{ authorization: 'Bearer k-1' }])
		expect(stderr).toContain('status 401: Unauthorized: unknown API key')
		expect(code).toBe(1)
	})

	it('says to run npm start when nothing answers', async () => {
		await server.close()
		const { code, stderr } = await client()
		expect(stderr).toContain(`Nothing answers at ${server.url}`)
		expect(stderr).toContain('Run "npm start" first.')
		expect(code).toBe(1)
	})

	it('starts the run once although the answer to the first start is lost', async () => {
		let lost = 0
		server.interfere = async (request) => {
			if (request.method !== 'POST' || lost > 0) return false
			lost += 1
			// The run exists, and the client cannot know.
			server.runs.set('run-1', {
				key: String(request.headers['idempotency-key']),
				answer: { runId: 'run-1', status: 'completed' },
			})
			request.socket.destroy()
			return true
		}
		const { code, stderr } = await client()
		expect(stderr).toContain('Started run run-1')
		expect(code).toBe(0)
		expect(server.runs.size).toBe(1)
	})

	it.each([
		[[], 'either --blueprint or --run'],
		[['-b', 'x', '--input', '[1]'], '--input must be a JSON object'],
		[['-b', 'x', '--timeout', 'soon'], '--timeout must be a duration'],
		[['--blurprint', 'x'], "Unknown option '--blurprint'"],
	])('exits with 64 when it is called wrongly: %j', async (flags, message) => {
		const { code, stderr } = await run('client', flags)
		expect(stderr).toContain(message)
		expect(code).toBe(64)
	})
})

describe('the demo', { timeout: 60_000 }, () => {
	it('shows the verdict of every sample post, and exits with 0 when all are as expected', async () => {
		const { code, stdout } = await run('demo', [])
		for (const { id, expected } of samplePosts)
			expect(stdout).toMatch(new RegExp(`^ok +${id} +${expected} +${expected}( |$)`, 'm'))
		expect(stdout).toContain(`${samplePosts.length} of ${samplePosts.length} verdicts as expected`)
		expect(stdout).toContain(
			`started ${samplePosts.length}, finished ${samplePosts.length} of ${samplePosts.length}`,
		)
		expect(stdout).not.toContain('\u001b')
		expect(code).toBe(0)
	})

	it('exits with 1 and names the runs when a verdict differs', async () => {
		server.endAs = { result: { context: { moderation_result: { verdict: 'approved' } } } }
		const { code, stdout } = await run('demo', [])
		expect(stdout).toMatch(/^WRONG +severe-threat +banned +approved /m)
		expect(stdout).toMatch(/^ {2}severe-threat: approved, run run-\d+$/m)
		expect(code).toBe(1)
	})

	it('goes on where it was when the server restarts in the middle', async () => {
		let answers = 0
		server.interfere = async (_, response) => {
			answers += 1
			if (answers === 10 || answers === samplePosts.length + 10) {
				await server.close()
				setTimeout(() => void server.open(), 500)
				return true
			}
			if (answers % 9 === 0) send(response, 503, { title: 'Shutting down' })
			return answers % 9 === 0
		}
		const { code, stdout, stderr } = await run('demo', ['--repeat', '2'])
		expect(stderr).toBe('')
		expect(stdout).toContain('Waiting for the server (')
		expect(stdout).toContain('The server answers again.')
		expect(stdout).toContain(
			`${2 * samplePosts.length} of ${2 * samplePosts.length} verdicts as expected`,
		)
		expect(server.runs.size).toBe(2 * samplePosts.length)
		expect(code).toBe(0)
	})

	it('starts nothing twice under the same key', async () => {
		await run('demo', ['--key', 'again'])
		const { code } = await run('demo', ['--key', 'again'])
		expect(code).toBe(0)
		expect(server.runs.size).toBe(samplePosts.length)
	})

	it.each([
		['no worker is there', [], {}],
		[
			'no worker offers the content-moderation workflow',
			[{ status: 'alive' }],
			{ unrunnableSince: 'now' },
		],
	])('gives up within seconds when %s', async (problem, workers, node) => {
		server.endAs = { status: 'running', result: undefined }
		server.interfere = ({ url = '' }, response) => {
			if (url === '/workers') send(response, 200, { workers })
			else if (url.endsWith('/nodes')) send(response, 200, { nodes: [{ nodeId: 'a', ...node }] })
			else return false
			return true
		}
		const { code, stderr } = await run('demo', [])
		expect(stderr).toContain(problem)
		expect(code).toBe(1)
	})

	it('reports what has not ended in time', async () => {
		server.endAs = { status: 'running', result: undefined }
		const { code, stdout } = await run('demo', ['--timeout', '2s'])
		expect(stdout).toContain('Not everything has ended within 2s')
		expect(stdout).toMatch(/^ {2}friendly: not ended, run run-\d+$/m)
		expect(code).toBe(1)
	})

	it('stops at the first refusal', async () => {
		server.interfere = (_, response) => {
			send(response, 401, ownRefusal)
			return true
		}
		const { code, stderr } = await run('demo', ['--repeat', '100'])
		expect(stderr).toContain('unknown API key')
		expect(server.requests.length).toBeLessThan(50)
		expect(code).toBe(1)
	})
})

describe('durations', () => {
	it.each([
		['500ms', 500],
		['90s', 90_000],
		['90', 90_000],
		['1.5m', 90_000],
		['1h', 3_600_000],
	])('%s is %i ms', (text, ms) => {
		expect(parseDuration('--timeout', text)).toBe(ms)
	})

	it.each(['', '0', '-1s', '1 s', '5d', '1000h', 'NaN'])('"%s" is refused', (text) => {
		expect(() => parseDuration('--timeout', text)).toThrow('--timeout must be a duration')
	})
})
