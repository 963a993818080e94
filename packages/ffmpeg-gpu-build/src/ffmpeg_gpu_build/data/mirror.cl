// Mirrors a plane: what `verify` runs through program_opencl and compares with hflip.
__kernel void mirror(__write_only image2d_t out, unsigned int frame, __read_only image2d_t in) {
  const sampler_t exact = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP_TO_EDGE | CLK_FILTER_NEAREST;
  const int2 at = (int2)(get_global_id(0), get_global_id(1));
  write_imagef(out, at, read_imagef(in, exact, (int2)(get_image_width(out) - 1 - at.x, at.y)));
}
