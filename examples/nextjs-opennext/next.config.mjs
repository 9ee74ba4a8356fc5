/** @type {import("next").NextConfig} */
export default {
  output: "standalone",
  poweredByHeader: false,
  // There is no image optimizer here: images are served as they are.
  images: { unoptimized: true },
  // The name of the build is part of addresses; build.sh sets it, so that equal sources give equal
  // addresses.
  generateBuildId: () => process.env.BUILD_ID ?? null,
};
