/**
 * Where a server comes from when the tests need a private one: programs on this machine, else Docker, else (as root
 * on Debian or Ubuntu) the distribution's package, else a sentence that says what to do.
 */
import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access, chmod, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

export interface Wanted<Programs> {
	/** As people call it. */
	readonly name: string
	/** The environment variable that names a server to use instead. */
	readonly variable: string
	/** Looks for its programs on this machine. */
	readonly find: () => Promise<Programs | undefined>
	/** The Debian package that brings them. */
	readonly aptPackage: string
}

export type Found<Programs> =
	| { readonly kind: 'programs'; readonly programs: Programs }
	| { readonly kind: 'docker' }

/** @throws with one sentence that says what to install or to set. */
export async function findServer<Programs>(wanted: Wanted<Programs>): Promise<Found<Programs>> {
	const programs = await wanted.find()
	if (programs !== undefined) return { kind: 'programs', programs }
	if (await dockerAnswers()) return { kind: 'docker' }
	let failure = ''
	if (await canInstall()) {
		try {
			await install(wanted.aptPackage)
			const installed = await wanted.find()
			if (installed !== undefined) return { kind: 'programs', programs: installed }
		} catch (error) {
			failure = ` Installing ${wanted.aptPackage} failed: ${error instanceof Error ? error.message : String(error)}`
		}
	}
	throw new Error(
		`These tests need ${wanted.name}, which is not on this machine: install it (Debian, Ubuntu: apt-get install ${wanted.aptPackage}), or start Docker, or set ${wanted.variable} to a server for tests.${failure}`,
	)
}

/** The first of these files that can be executed. */
export async function firstProgram(candidates: Iterable<string>): Promise<string | undefined> {
	for (const file of candidates) {
		try {
			await access(file, constants.X_OK)
			return file
		} catch {
			// Not here.
		}
	}
	return undefined
}

/** Where the shell would look for a program, and the folders of servers, which are not on everybody's PATH. */
export function onPath(program: string): string[] {
	const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
	return [...folders, '/usr/sbin', '/usr/local/sbin', '/opt/homebrew/sbin', '/opt/homebrew/bin'].map(
		(folder) => join(folder, program),
	)
}

/** Folders in `folder` whose names match, those with the highest number first. */
export async function versions(folder: string, pattern: RegExp): Promise<string[]> {
	const names = await readdir(folder).catch(() => [])
	return names
		.filter((name) => pattern.test(name))
		.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
		.map((name) => join(folder, name))
}

async function dockerAnswers(): Promise<boolean> {
	try {
		await run('docker', ['version', '--format', '{{.Server.Version}}'], { timeout: 10_000 })
		return true
	} catch {
		return false
	}
}

async function canInstall(): Promise<boolean> {
	if (process.getuid?.() !== 0) return false
	const release = await readFile('/etc/os-release', 'utf8').catch(() => '')
	return (
		/^ID(_LIKE)?="?[^\n]*\b(debian|ubuntu)\b/m.test(release) &&
		(await firstProgram(onPath('apt-get'))) !== undefined
	)
}

const POLICY_FILE = '/usr/sbin/policy-rc.d'
let installing: Promise<void> = Promise.resolve()

/** One after the other: packages are installed under one lock. */
function install(aptPackage: string): Promise<void> {
	const turn = installing.then(() => installNow(aptPackage))
	installing = turn.catch(() => {})
	return turn
}

async function installNow(aptPackage: string): Promise<void> {
	process.stderr.write(`\nTests need ${aptPackage}, which is not installed: installing it with apt-get.\n`)
	// Debian's packages start their service when they are installed, unless this file forbids it (101). Whoever has
	// one already has decided that for himself.
	const ours = await writeFile(POLICY_FILE, '#!/bin/sh\nexit 101\n', { flag: 'wx' }).then(
		() => true,
		() => false,
	)
	if (ours) await chmod(POLICY_FILE, 0o755)
	try {
		await aptGet('update')
		await aptGet('install', '--yes', '--no-install-recommends', aptPackage)
	} finally {
		if (ours) await rm(POLICY_FILE, { force: true })
	}
}

async function aptGet(...args: string[]): Promise<void> {
	await run('apt-get', ['-o', 'DPkg::Lock::Timeout=120', '-qq', ...args], {
		env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
		maxBuffer: 64_000_000,
	})
}
