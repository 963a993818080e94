# One native package: a static library of kernels that know neither Python nor torch (installed with its
# headers as <package>::core for C++ projects) and a nanobind module `_C` over it.
#
#   native_package(spconv_lite
#     BINDINGS csrc/bindings/module.cpp
#     CPU      csrc/cpu/rulebook.cpp        # compiled once
#     SIMD     csrc/cpu/conv.cpp            # compiled for baseline, AVX2 and AVX-512: native/dispatch.h
#     CUDA     csrc/cuda/rulebook.cu)       # compiled when GPU says so; WITH_CUDA=1 is then defined
#
# Options of a build (all cache variables):
#   GPU               AUTO (CUDA if a compiler is found) | ON (an error if not) | OFF
#   CMAKE_CUDA_ARCHITECTURES   default: the current ones as machine code, the newest with PTX
#   NATIVE_PYTHON     ON builds the Python module; OFF only the C++ library (for C++ users and ctest)
#   NATIVE_WERROR     ON turns warnings into errors; the presets say so where CI is set: a compiler that we
#                     never met warns of other things
#   NATIVE_SANITIZE   "address;undefined" or "thread"
#   NATIVE_SANITIZE_ONE_LEVEL   packages whose tests run one level of instruction sets, the best that the machine
#                     has: their other levels are compiled plain, since instrumenting them takes minutes
#   NATIVE_STD_THREADS ON takes std::thread for OpenMP in parallel_for (the tsan preset; what a compiler
#                     without OpenMP gets, such as Apple's)
#   CMAKE_CUDA_RUNTIME_LIBRARY   Static (in wheels: no library beside the module) or Shared (in conda packages)
#
# Install components: `python` (the module, its stub) and `development` (archive, headers, CMake files).
# With NATIVE_PYTHON the latter stand inside the Python package, without it in include/ and lib/.
include_guard(GLOBAL)
if(CMAKE_SYSTEM_NAME STREQUAL "Windows")
  message(FATAL_ERROR "${PROJECT_NAME} does not build on Windows: it needs POSIX (mmap, fork, dlopen) and the "
                      "attributes of g++ or clang. Use WSL 2, where the Linux build works.")
endif()

set(NATIVE_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/include" CACHE INTERNAL "headers that every core needs")
# the repository, or the unpacked sdist: its path stays out of the artifacts
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH native_root)
if(native_root MATCHES "/_shared$")
  cmake_path(GET native_root PARENT_PATH native_root)
endif()
set(NATIVE_ROOT "${native_root}" CACHE INTERNAL "")
set(NATIVE_CONFIG_TEMPLATE "${CMAKE_CURRENT_LIST_DIR}/PackageConfig.cmake.in" CACHE INTERNAL "")
set(GPU AUTO CACHE STRING "CUDA kernels: AUTO (if a compiler is found), ON or OFF")
set_property(CACHE GPU PROPERTY STRINGS AUTO ON OFF)
option(NATIVE_PYTHON "build the Python module" ON)
option(NATIVE_WERROR "warnings are errors" OFF)
option(NATIVE_STD_THREADS "std::thread in place of OpenMP" OFF)
set(NATIVE_SANITIZE "" CACHE STRING "sanitizers, as a list: address;undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# ------------------------------------------------------------------------------------------ C++ compiler
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR "No C++ compiler was found. Install one with C++17 (Debian/Ubuntu: apt install g++; "
                      "conda: conda install cxx-compiler) or name it in the environment variable CXX.")
endif()
enable_language(CXX)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 9)
  message(FATAL_ERROR "g++ ${CMAKE_CXX_COMPILER_VERSION} is too old: C++17 needs g++ 9 or newer. "
                      "Install a newer one, or name it in the environment variable CXX.")
endif()

find_program(NATIVE_CCACHE ccache)
if(NATIVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${NATIVE_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${NATIVE_CCACHE}")
endif()

# ------------------------------------------------------------------------------------------ CUDA
set(NATIVE_CUDA_MINIMUM 12.4) # the first whose libcu++ and host compilers are those we test against
set(WITH_CUDA FALSE)
if(NOT GPU STREQUAL "OFF")
  set(native_why "no CUDA compiler was found")
  find_program(NATIVE_NVCC NAMES "$ENV{CUDACXX}" nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
               PATH_SUFFIXES bin)
  if(NATIVE_NVCC)
    execute_process(COMMAND "${NATIVE_NVCC}" --version OUTPUT_VARIABLE native_nvcc_text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9.]+)" native_unused "${native_nvcc_text}")
    set(native_nvcc_version "${CMAKE_MATCH_1}")
    if(native_nvcc_version VERSION_LESS NATIVE_CUDA_MINIMUM)
      set(native_why "${NATIVE_NVCC} is CUDA ${native_nvcc_version}, and ${NATIVE_CUDA_MINIMUM} or newer is needed")
    else()
      if(NOT CMAKE_CUDA_COMPILER)
        set(CMAKE_CUDA_COMPILER "${NATIVE_NVCC}")
      endif()
      set(WITH_CUDA TRUE)
    endif()
  endif()
  if(NOT WITH_CUDA AND GPU STREQUAL "ON")
    message(FATAL_ERROR "GPU=ON, but ${native_why}. Install a CUDA toolkit (conda: conda install cuda-nvcc), "
                        "name its nvcc in the environment variable CUDACXX, or build for the CPU with GPU=OFF.")
  elseif(NOT WITH_CUDA)
    message(STATUS "CPU only: ${native_why}")
  endif()
endif()
if(WITH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES) # said here, so that $CUDAARCHS cannot change it unseen
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real)
    if(native_nvcc_version VERSION_GREATER_EQUAL 12.8)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 100-real 120)
    else()
      list(APPEND CMAKE_CUDA_ARCHITECTURES 90-virtual)
    endif()
  endif()
  if(NOT CMAKE_CUDA_RUNTIME_LIBRARY)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  endif()
  string(TOLOWER "cudart_${CMAKE_CUDA_RUNTIME_LIBRARY}" native_cudart)
  string(REPLACE cudart_shared cudart native_cudart "${native_cudart}")
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  find_package(CUDAToolkit REQUIRED)
endif()
string(REPLACE ";" " " native_architectures "${CMAKE_CUDA_ARCHITECTURES}")

# ------------------------------------------------------------------------------------------ threads, Python
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
if(NOT NATIVE_STD_THREADS)
  find_package(OpenMP COMPONENTS CXX)
  if(NOT OpenMP_CXX_FOUND)
    message(STATUS "no OpenMP for ${CMAKE_CXX_COMPILER}: parallel loops run on std::thread")
    set(NATIVE_STD_THREADS ON)
  endif()
endif()
if(NATIVE_PYTHON)
  if(CMAKE_CROSSCOMPILING) # an interpreter of the target cannot run here: ours answers for it
    find_package(Python 3.10 REQUIRED COMPONENTS Development.Module OPTIONAL_COMPONENTS Development.SABIModule)
    if(NOT Python_EXECUTABLE)
      find_program(Python_EXECUTABLE NAMES python3 python NO_CMAKE_FIND_ROOT_PATH REQUIRED)
    endif()
    if(NOT TARGET Python::Interpreter)
      add_executable(Python::Interpreter IMPORTED)
      set_target_properties(Python::Interpreter PROPERTIES IMPORTED_LOCATION "${Python_EXECUTABLE}")
    endif()
  else()
    find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module
                 OPTIONAL_COMPONENTS Development.SABIModule)
  endif()
  if(NOT COMMAND nanobind_add_module)
    execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
                    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_ROOT
                    RESULT_VARIABLE native_nanobind_missing)
    if(native_nanobind_missing)
      message(FATAL_ERROR "nanobind is not installed for ${Python_EXECUTABLE}: pip install nanobind "
                          "(pip does it by itself unless --no-build-isolation is given).")
    endif()
    find_package(nanobind CONFIG REQUIRED NO_CMAKE_FIND_ROOT_PATH)
  endif()
endif()

# x86-64 levels: which flags each name of native/dispatch.h stands for
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(NATIVE_X86_LEVELS TRUE)
  set(native_flags_baseline "")
  set(native_flags_avx2 -march=x86-64-v3)
  set(native_flags_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  set(native_levels baseline avx2 avx512)
else()
  set(NATIVE_X86_LEVELS FALSE)
  set(native_flags_baseline "")
  set(native_levels baseline)
endif()

# What every target of ours is compiled with.
function(native_compile_options target)
  cmake_parse_arguments(ARG "PLAIN" "" "" ${ARGN}) # PLAIN: without sanitizers, whatever the build has
  # $<C>: options for the host compiler in C++ sources only; nvcc has its own
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-fstack-protector-strong;-ffp-contract=off>"
    "$<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${NATIVE_ROOT}=.>"
    "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${NATIVE_WERROR}>>:-Werror>"
    # the sanitizer presets do not vectorise: that an `omp simd` loop stays a loop there is no fault
    "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-pass-failed>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-ffile-prefix-map=${NATIVE_ROOT}=.;--expt-relaxed-constexpr>"
    "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${NATIVE_WERROR}>>:-Werror=all-warnings>")
  if(NATIVE_SANITIZE AND NOT ARG_PLAIN)
    list(JOIN NATIVE_SANITIZE "," sanitizers)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${sanitizers};-fno-sanitize-recover=all;-fno-omit-frame-pointer;-g1>")
    target_link_options(${target} PUBLIC -fsanitize=${sanitizers})
  else()
    target_compile_definitions(${target} PRIVATE
      "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:_FORTIFY_SOURCE=2>")
  endif()
endfunction()

# The instruction set that this machine runs, by native/dispatch.h.
function(native_machine_level out)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/machine_level.cpp")
  file(WRITE "${source}" "#include <native/dispatch.h>\n#include <cstdio>\n"
                         "int main() { std::fputs(native::name(native::detect_isa()), stdout); }\n")
  set(definition "")
  if(NATIVE_X86_LEVELS)
    set(definition COMPILE_DEFINITIONS -DNATIVE_X86_LEVELS=1)
  endif()
  try_run(ran compiled "${CMAKE_CURRENT_BINARY_DIR}/machine_level" "${source}"
          CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${NATIVE_INCLUDE_DIR}"
          ${definition}
          RUN_OUTPUT_VARIABLE level)
  if(NOT level IN_LIST native_levels)
    message(FATAL_ERROR "the level of this machine is none of ${native_levels}: ${level}")
  endif()
  message(STATUS "sanitized level of instruction sets: ${level}")
  set(${out} ${level} PARENT_SCOPE)
endfunction()

# A native test: one source, linked with the named targets, run by ctest. Only the top-level tree builds it.
function(native_test name source)
  if(NOT NATIVE_TESTS)
    return()
  endif()
  add_executable(${name} ${source})
  target_include_directories(${name} PRIVATE "${CMAKE_SOURCE_DIR}/tests/native")
  native_compile_options(${name})
  target_link_libraries(${name} PRIVATE ${ARGN})
  add_test(NAME ${name} COMMAND ${name})
endfunction()

function(native_package package)
  cmake_parse_arguments(ARG "" "" "BINDINGS;CPU;SIMD;CUDA" ${ARGN})
  set(core ${package}_core)
  set(inside "") # where the files for C++ projects go: into the Python package, if there is one
  if(NATIVE_PYTHON)
    set(inside ${package}/)
  endif()

  # --- the kernels
  add_library(${core} STATIC ${ARG_CPU})
  add_library(${package}::core ALIAS ${core})
  set_target_properties(${core} PROPERTIES EXPORT_NAME core POSITION_INDEPENDENT_CODE ON
                        CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(${core} PUBLIC
    "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/csrc>" "$<BUILD_INTERFACE:${NATIVE_INCLUDE_DIR}>"
    "$<INSTALL_INTERFACE:${inside}include>" "$<INSTALL_INTERFACE:${inside}include/${package}>")
  target_compile_features(${core} PUBLIC cxx_std_17)
  native_compile_options(${core})
  target_link_libraries(${core} PUBLIC Threads::Threads)
  if(NATIVE_STD_THREADS)
    target_compile_definitions(${core} PUBLIC NATIVE_STD_THREADS=1)
  else()
    target_link_libraries(${core} PUBLIC OpenMP::OpenMP_CXX)
  endif()
  if(NATIVE_X86_LEVELS)
    target_compile_definitions(${core} PUBLIC NATIVE_X86_LEVELS=1)
  endif()
  set(sanitized ${native_levels})
  if(NATIVE_SANITIZE AND package IN_LIST NATIVE_SANITIZE_ONE_LEVEL)
    native_machine_level(sanitized)
  endif()
  foreach(level IN LISTS native_levels)
    if(ARG_SIMD)
      add_library(${core}_${level} OBJECT ${ARG_SIMD})
      set_target_properties(${core}_${level} PROPERTIES POSITION_INDEPENDENT_CODE ON
                            CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
      target_include_directories(${core}_${level} PRIVATE csrc "${NATIVE_INCLUDE_DIR}")
      target_compile_definitions(${core}_${level} PRIVATE NATIVE_ISA=${level})
      target_compile_options(${core}_${level} PRIVATE ${native_flags_${level}} -fopenmp-simd)
      set(plain PLAIN)
      if(level IN_LIST sanitized)
        set(plain "")
      endif()
      native_compile_options(${core}_${level} ${plain})
      # multiply-add where the level has it: the same chunks give the same bits on the same machine
      target_compile_options(${core}_${level} PRIVATE -ffp-contract=fast)
      if(NATIVE_STD_THREADS)
        target_compile_definitions(${core}_${level} PRIVATE NATIVE_STD_THREADS=1)
      else()
        target_link_libraries(${core}_${level} PRIVATE OpenMP::OpenMP_CXX)
      endif()
      if(NATIVE_X86_LEVELS)
        target_compile_definitions(${core}_${level} PRIVATE NATIVE_X86_LEVELS=1)
      endif()
      target_sources(${core} PRIVATE $<TARGET_OBJECTS:${core}_${level}>)
    endif()
  endforeach()
  if(WITH_CUDA AND ARG_CUDA)
    target_sources(${core} PRIVATE ${ARG_CUDA})
    target_compile_definitions(${core} PUBLIC WITH_CUDA=1 "NATIVE_CUDA_ARCHITECTURES=\"${native_architectures}\"")
    set_target_properties(${core} PROPERTIES CUDA_VISIBILITY_PRESET hidden)
    target_link_libraries(${core} PUBLIC CUDA::${native_cudart})
  endif()

  # --- the Python module
  if(NATIVE_PYTHON)
    set(size_options "")
    if(NATIVE_SANITIZE)
      set(size_options NOMINSIZE NOSTRIP)
    endif()
    nanobind_add_module(${package}_C STABLE_ABI NB_STATIC ${size_options} ${ARG_BINDINGS})
    set_target_properties(${package}_C PROPERTIES OUTPUT_NAME _C
                          LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/${package}")
    native_compile_options(${package}_C)
    target_include_directories(${package}_C SYSTEM PRIVATE "${NB_DIR}/include") # no warnings of nanobind's
    target_link_libraries(${package}_C PRIVATE ${core})
    if(NOT APPLE)
      target_link_options(${package}_C PRIVATE -Wl,-z,relro,-z,now)
    endif()
    install(TARGETS ${package}_C LIBRARY DESTINATION ${package} COMPONENT python)
    if(NOT CMAKE_CROSSCOMPILING AND NOT NATIVE_SANITIZE) # the stub is made by importing the module
      set(stub "${CMAKE_CURRENT_BINARY_DIR}/${package}/_C.pyi")
      nanobind_add_stub(${package}_stub MODULE _C OUTPUT "${stub}" DEPENDS ${package}_C
                        PYTHON_PATH "$<TARGET_FILE_DIR:${package}_C>")
      install(FILES "${stub}" DESTINATION ${package} COMPONENT python)
    endif()
    if(NOT SKBUILD) # scikit-build-core brings the Python files itself
      install(DIRECTORY src/${package} DESTINATION . COMPONENT python PATTERN __pycache__ EXCLUDE)
    endif()
  endif()

  # --- for C++ projects: find_package(<package>), target <package>::core
  install(TARGETS ${core} EXPORT ${package}Targets ARCHIVE DESTINATION ${inside}lib COMPONENT development)
  foreach(headers "${NATIVE_INCLUDE_DIR}/native" csrc/)
    install(DIRECTORY ${headers} DESTINATION ${inside}include/${package} COMPONENT development
            FILES_MATCHING PATTERN "*.h" PATTERN "*.cuh" PATTERN bindings EXCLUDE)
  endforeach()
  set(cmake_dir ${inside}lib/cmake/${package})
  install(EXPORT ${package}Targets NAMESPACE ${package}:: DESTINATION ${cmake_dir} COMPONENT development)
  set(PACKAGE ${package})
  configure_file("${NATIVE_CONFIG_TEMPLATE}" "${CMAKE_CURRENT_BINARY_DIR}/${package}Config.cmake" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${package}Config.cmake" DESTINATION ${cmake_dir}
          COMPONENT development)
endfunction()
