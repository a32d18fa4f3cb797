/** `npm run soak`: mixed workflows under a random schedule of all faults, on private servers, and a verdict. */
import { parseArgs } from 'node:util'
import { exitCodeFor, UsageError } from '../../../worker/command-line.js'
import { stopServices } from '../../support/services/index.js'
import { openSoak, soak } from './soak.js'
import { verdictTable } from './verdict.js'

const HELP = `npm run soak -- [--minutes 10] [--seed N]

  --minutes N   how long faults strike; ending everything afterwards takes a little longer (default 10)
  --seed N      repeats the order of runs and faults of an earlier soak (default: a random one, which is printed)
  --help        this text

Starts Postgres, RabbitMQ, Redis and the system's processes for itself. Ends with 1 if anything was violated.`

async function main(): Promise<number> {
	const { values: flags } = parseArgs({
		options: {
			minutes: { type: 'string', default: '10' },
			seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
			help: { type: 'boolean', default: false },
		},
	})
	if (flags.help) {
		console.log(HELP)
		return 0
	}
	const minutes = Number(flags.minutes)
	if (!(minutes > 0 && minutes <= 24 * 60))
		throw new UsageError('--minutes must be above 0 and at most 1440')
	const seed = Number(flags.seed)
	if (!Number.isSafeInteger(seed) || seed < 0) throw new UsageError('--seed must be a whole number')

	console.log(`Seed ${seed}, ${minutes} minutes. Starting servers and processes …`)
	const opened = await openSoak({ postgres: 'private', rabbitMq: 'private', redis: 'private' })
	try {
		const verdict = await soak(opened, {
			seed,
			durationMs: minutes * 60_000,
			maxLiveRuns: 150,
			maxPauseMs: 7_000,
			onProgress: console.log,
		})
		console.log(verdictTable(verdict))
		return verdict.violations.length === 0 ? 0 : 1
	} finally {
		await opened.lab.close()
		await stopServices()
	}
}

try {
	process.exitCode = await main()
} catch (error) {
	process.exitCode = exitCodeFor(error)
}
