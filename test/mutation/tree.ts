/** A copy of the project to take guards away from: the checkout itself is never touched. */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { freshFolder } from '../support/cleanup.js'
import { PROJECT_ROOT } from '../support/process.js'
import { type Guard, withoutGuard } from './guard.js'

export interface Tree {
	readonly root: string
	/** Another copy, as this one was when it was made. */
	copy(): Tree
	/** Takes a guard away, and returns how to put it back. @throws StalePatchError */
	remove(guard: Guard): () => void
}

/** What git tracks or would, as it stands in the checkout, with the checkout's packages. */
export function copyCheckout(): Tree {
	const listed = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
		cwd: PROJECT_ROOT,
		encoding: 'utf8',
	})
	if (listed.status !== 0) throw new Error(`git ls-files: ${listed.stderr}`)
	const files = listed.stdout.split('\0').filter((file) => file !== '')
	return copyFiles(PROJECT_ROOT, files)
}

function copyFiles(from: string, files: readonly string[]): Tree {
	const root = freshFolder('mutation')
	for (const file of files) {
		// Deleted, but not committed yet.
		if (!existsSync(join(from, file))) continue
		mkdirSync(dirname(join(root, file)), { recursive: true })
		cpSync(join(from, file), join(root, file))
	}
	symlinkSync(join(PROJECT_ROOT, 'node_modules'), join(root, 'node_modules'))
	return {
		root,
		copy: () => copyFiles(root, files),
		remove(guard) {
			const whole = new Map(
				guard.edits.map(({ file }) => [file, readFileSync(join(root, file), 'utf8')]),
			)
			for (const [file, text] of withoutGuard(root, guard)) writeFileSync(join(root, file), text)
			return () => {
				for (const [file, text] of whole) writeFileSync(join(root, file), text)
			}
		},
	}
}
