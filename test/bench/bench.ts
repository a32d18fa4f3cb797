/**
 * `npm run bench`: how fast runs go through real servers and real processes, beside other systems and beside what the
 * servers can do at all. `npm run bench -- --help` says how to ask.
 *
 * Absolute figures belong to the machine and the moment. So whatever is compared is measured in the same run, and a run
 * goes through all stages once per repetition, so that noise hits both sides; the ratios are medians over the repetitions.
 *
 *   options       the command line           lab, system   servers; our processes on them
 *   session       a run of the benchmark     in-flight     load in a closed loop, for every engine alike
 *   look          how many runs are live
 *   stages/       what is measured           contenders/   DBOS, OpenWorkflow, BullMQ
 *   floors/       pgbench, amqplib, Hono     costs         WAL, statements, messages and CPU of a node
 *   comparisons   what has to be reached     calculator    what more nodes per second need
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { asAdmin } from '../support/services/suite.js'
import { calculation } from './calculator.js'
import { compare, REFERENCE } from './comparisons.js'
import { type Lab, openLab } from './lab.js'
import { HELP, type Options, readOptions } from './options.js'
import { prepareProfileFolder, summarizeProfile } from './profile.js'
import { printable, type Report } from './report.js'
import { Results } from './results.js'
import { Session } from './session.js'
import { STAGES } from './stages/index.js'
import { formatNumber } from './table.js'

const RESULTS_FILE = 'bench-results.json'
/** Figures of a profile are too slow to be kept as results. */
const PROFILED_RESULTS_FILE = '.bench-profile/results.json'

const resultsFile = ({ profile }: Options): string => (profile ? PROFILED_RESULTS_FILE : RESULTS_FILE)

async function main(options: Options): Promise<void> {
	const stages = STAGES.filter(({ name }) => options.only?.includes(name) ?? true)
	console.log('Starting Postgres, RabbitMQ and Redis …')
	const profileFolder = options.profile ? await prepareProfileFolder() : undefined
	const lab = await openLab({ profileFolder })
	const results = new Results((name, value, unit) =>
		console.log(`  ${name}: ${formatNumber(value)} ${unit}`),
	)
	const session = new Session(lab, results, options, profileFolder)
	try {
		for (let repetition = 1; repetition <= options.repetitions; repetition++) {
			for (const stage of stages) {
				console.log(`${repetition}/${options.repetitions} ${stage.name}: ${stage.summary}`)
				await stage.run(session)
				// What an interrupted run has measured is not lost.
				await write(lab, session, options)
			}
		}
		const report = await write(lab, session, options)
		console.log(`\n${printable(report)}\n\nWritten to ${resultsFile(options)}.`)
		if (profileFolder !== undefined) {
			// A process writes its profile when it stops.
			await session.quiet()
			await summarizeProfile(profileFolder, lab.postgres.url)
			console.log(`Profiles are in ${profileFolder}.`)
		}
	} finally {
		await session.quiet()
		for (const stage of stages) await stage.close?.()
		await lab.close()
	}
}

async function write(lab: Lab, session: Session, options: Options): Promise<Report> {
	const measured = session.results.all()
	const results = new Results()
	for (const { name, unit, samples } of measured)
		for (const sample of samples) results.add(name, sample, unit)
	for (const [name, value] of Object.entries(REFERENCE))
		for (let i = 0; i < options.repetitions; i++) results.add(name, value, 'nodes/s')
	const [cpu] = cpus()
	const report: Report = {
		node: process.version,
		machine: { cpus: cpus().length, model: cpu?.model ?? '', memoryBytes: totalmem() },
		servers: { postgres: await versionOf(lab.postgres.url) },
		repetitions: options.repetitions,
		isQuick: options.quick,
		measurements: measured,
		comparisons: compare(results),
		costs: Object.fromEntries(session.costs),
	}
	writeFileSync(resultsFile(options), `${JSON.stringify(report, null, '\t')}\n`)
	return report
}

async function versionOf(url: string): Promise<string> {
	return asAdmin(url, async (sql) => {
		const [row] = await sql<{ version: string }[]>`select current_setting('server_version') as version`
		return row?.version ?? ''
	})
}

const options = readOptions(
	process.argv.slice(2),
	STAGES.map(({ name }) => name),
)
if (options.help) {
	const width = Math.max(...STAGES.map(({ name }) => name.length))
	console.log(
		`${HELP}\nStages:\n${STAGES.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`).join('\n')}`,
	)
} else if (options.calculate) {
	const { costs } = JSON.parse(readFileSync(RESULTS_FILE, 'utf8')) as Report
	// The first has most to do for a node: its runs are short, so that starts and ends weigh in.
	for (const name of ['chain of 3', 'mixed load, 100 runs at once']) {
		const cost = costs[name]
		if (cost !== undefined) console.log(`${calculation(name, cost)}\n`)
	}
} else await main(options)
