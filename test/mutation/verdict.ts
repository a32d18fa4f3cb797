/** Runs chosen tests of a tree, and says of each what became of it. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { z } from 'zod'
import { forgetProcess, reapProcess } from '../support/cleanup.js'
import type { Notice } from './guard.js'

export interface TestOutcome {
	/** Relative to the project's folder. */
	readonly file: string
	readonly title: string
	readonly status: 'passed' | 'failed'
	/** What a failed one said. */
	readonly message: string
}

export interface Verdict {
	/** Of the chosen tests that ran. */
	readonly tests: readonly TestOutcome[]
	/** What went wrong outside of any test: a file that does not compile, a hook that threw, no answer in time. */
	readonly broken: string | undefined
	readonly seconds: number
}

export interface VerdictOptions {
	readonly root: string
	/** All tests of these files if no titles are given. */
	readonly files: readonly string[]
	readonly titles?: readonly string[]
	/** Of the servers to use, beside the usual ones. */
	readonly env: Readonly<Record<string, string>>
	readonly deadlineMs: number
	readonly workers: number
}

const report = z.object({
	testResults: z.array(
		z.object({
			name: z.string(),
			message: z.string().optional(),
			assertionResults: z.array(
				z.object({
					fullName: z.string(),
					status: z.string(),
					failureMessages: z.array(z.string()).nullish(),
				}),
			),
		}),
	),
})

/**
 * Errors that say that the change is no program any more, rather than a program without a guard. A test that fails by
 * one of them has noticed nothing.
 */
const NO_PROGRAM =
	/(Syntax|Reference)Error\b|syntax error at|is not a function|(column|function|relation|record) .* (does not exist|has no field)|Transform failed|Cannot find (module|package)|is ambiguous/

export async function runTests(options: VerdictOptions): Promise<Verdict> {
	const { root, files, titles = [], env, deadlineMs, workers } = options
	const reportFile = join(root, 'mutation-report.json')
	rmSync(reportFile, { force: true })
	const begin = performance.now()
	const { output, isLate } = await run(
		process.execPath,
		[
			join('node_modules', 'vitest', 'vitest.mjs'),
			'run',
			...files,
			...(titles.length === 0 ? [] : ['--testNamePattern', titles.map(escaped).join('|')]),
			`--maxWorkers=${workers}`,
			'--reporter=json',
			`--outputFile=${reportFile}`,
		],
		{ cwd: root, env, deadlineMs },
	)
	const seconds = (performance.now() - begin) / 1000
	if (isLate) return { tests: [], broken: `no answer within ${deadlineMs / 1000} s`, seconds }
	if (!existsSync(reportFile)) return { tests: [], broken: output.slice(-2_000), seconds }

	const { testResults } = report.parse(JSON.parse(readFileSync(reportFile, 'utf8')))
	const tests: TestOutcome[] = []
	const faults: string[] = []
	for (const { name, message, assertionResults } of testResults) {
		for (const { fullName, status, failureMessages } of assertionResults) {
			if (status !== 'passed' && status !== 'failed') continue
			const said = (failureMessages ?? []).join('\n')
			tests.push({ file: relative(root, name), title: fullName, status, message: said })
			if (NO_PROGRAM.test(said)) faults.push(`${fullName}: ${said}`)
		}
		if (message) faults.push(`${relative(root, name)}: ${message}`)
	}
	if (tests.length === 0) faults.push(`no test ran\n${output.slice(-2_000)}`)
	return { tests, broken: faults.length > 0 ? faults.join('\n') : undefined, seconds }
}

/** What the tests that were to notice have said. */
export function noticing(verdict: Verdict, [file, title]: Notice): 'noticed' | 'survived' | 'absent' {
	const matching = verdict.tests.filter((test) => test.file === file && test.title.includes(title))
	if (matching.length === 0) return 'absent'
	return matching.some(({ status }) => status === 'failed') ? 'noticed' : 'survived'
}

const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')

interface RunOptions {
	readonly cwd: string
	readonly env: Readonly<Record<string, string>>
	readonly deadlineMs: number
}

/** In a process group of its own, so that nothing of it outlives the deadline. */
function run(
	command: string,
	args: readonly string[],
	{ cwd, env, deadlineMs }: RunOptions,
): Promise<{ readonly output: string; readonly isLate: boolean }> {
	return new Promise((resolve) => {
		const child = spawn(command, args, {
			cwd,
			env: { ...process.env, ...env },
			detached: true,
			stdio: ['ignore', 'pipe', 'pipe'],
		})
		const end = (signal: NodeJS.Signals): void => {
			try {
				if (child.pid !== undefined) process.kill(-child.pid, signal)
			} catch {
				// It has ended already.
			}
		}
		if (child.pid !== undefined) reapProcess(child.pid, 'SIGTERM')
		let output = ''
		for (const stream of [child.stdout, child.stderr]) {
			stream.setEncoding('utf8')
			stream.on('data', (text: string) => {
				output = (output + text).slice(-100_000)
			})
		}
		let isLate = false
		const timer = setTimeout(() => {
			isLate = true
			end('SIGKILL')
		}, deadlineMs)
		child.on('error', (error) => (output += error.message))
		child.on('close', () => {
			clearTimeout(timer)
			if (child.pid !== undefined) forgetProcess(child.pid)
			resolve({ output, isLate })
		})
	})
}
