/** What the command-line clients have in common: where the server is, and how people write durations. */
import { EXIT_USAGE } from '../src/arguments.js'
import { type Client, ConnectionError, createClient, ProblemError } from '../src/client/index.js'

/** The command was called wrongly; the message says how. */
export class UsageError extends Error {
	override readonly name = 'UsageError'
}

/** What a shell reports for a process that ^C ended. */
export const EXIT_INTERRUPTED = 130

export const ENVIRONMENT_HELP = `Environment:
  FLOWCRAFT_URL   where the server is (default http://127.0.0.1:$PORT, port 3000 if that is not set)
  API_KEY         sent as "Authorization: Bearer …"`

/** Where the server is and how to be let in. @throws UsageError that names the faulty variable. */
function serverFromEnvironment(env: NodeJS.ProcessEnv): {
	url: string
	apiKey?: string | undefined
} {
	const [name, value] = env.FLOWCRAFT_URL
		? ['FLOWCRAFT_URL', env.FLOWCRAFT_URL]
		: ['PORT', `http://127.0.0.1:${env.PORT || '3000'}`]
	if (!URL.canParse(value) || !/^https?:$/.test(new URL(value).protocol)) {
		throw new UsageError(`${name} is not valid: ${value} is no http(s) URL`)
	}
	return { url: value.replace(/\/+$/, ''), apiKey: env.API_KEY || undefined }
}

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }
/** The longest delay a timer of Node can have. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** Milliseconds in "90s", "5m", "1h", "500ms"; a bare number counts seconds. @throws UsageError */
export function parseDuration(flag: string, text: string): number {
	const [, amount, unit = 's'] = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text) ?? []
	const ms = Number(amount) * (UNITS_MS[unit] ?? Number.NaN)
	if (!(ms > 0 && ms <= MAX_TIMER_MS))
		throw new UsageError(`${flag} must be a duration such as 90s, 5m or 1h, not "${text}"`)
	return ms
}

/** Nothing has answered at all for so long, in ms: the server is not restarting, it was never started. */
const UNANSWERED_MS = 5000

/** A client that waits for a server that restarts, for as long as its calls' signals allow. */
export function patientClient(onTrouble: (problem?: string) => void): {
	client: Client
	url: string
	apiKey: string | undefined
} {
	const server = serverFromEnvironment(process.env)
	const retry = { forMs: Infinity, firstAnswerMs: UNANSWERED_MS }
	const client = createClient({ ...server, retry, onTrouble })
	return { client, url: server.url, apiKey: server.apiKey }
}

function explain(error: unknown): string {
	if (error instanceof ProblemError)
		return `The server refused the request with status ${error.status}: ${error.message}`
	// Whatever else breaks is tried again.
	if (error instanceof ConnectionError) return `${error.message}. Run "npm start" first.`
	return error instanceof Error ? error.message : String(error)
}

/** The same for every command: what went wrong goes to stderr, without a stack, and decides the exit code. */
export function exitCodeFor(error: unknown): number {
	const isUsage =
		error instanceof UsageError ||
		(error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'))
	process.stderr.write(`${explain(error)}\n${isUsage ? 'Try --help.\n' : ''}`)
	return isUsage ? EXIT_USAGE : 1
}
