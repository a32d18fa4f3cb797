/** Runs until it is killed; hard to stop, if STUBBORN is set. */
if (process.env['STUBBORN'] !== undefined) process.on('SIGTERM', () => console.log('not yet'))
setInterval(() => {}, 60_000)
console.log('sleeping')
console.error(`knows ${Object.keys(process.env).sort().join(' ')}`)
